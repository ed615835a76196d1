"""What is made of detections: drawings, `Results`, files, a window, lines on the console.

Begin with `results.py` (for programs) or `writer.py` (the files of detect.py); both share `saving.py`.
May import `utils.data`.
"""
