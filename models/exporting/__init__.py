"""One function per format that writes a trained network in that format: see `formats.FORMATS`."""
