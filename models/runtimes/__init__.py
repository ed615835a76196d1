"""One backend for each runtime that runs a trained network; `models.backends` opens files with them."""
