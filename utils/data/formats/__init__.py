"""Labels in the formats of other tools: a file a format, which reads it into `record.py: Annotations`.

`opening.py` is the door: it recognises what a source is and says where its pictures and labels are;
`places.py` finds pictures and annotations, `reading.py` opens files of strangers. Rows become YOLO text
(`record.py: label_text`) and are read like files of it, so that training does not depend on the format. May
import what `utils/data/index.py` may.
"""
