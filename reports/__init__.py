"""Reports read run folders, never code objects: tables, plots and one self-contained page."""
