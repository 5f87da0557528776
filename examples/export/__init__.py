"""An export that takes long: it resumes where it stopped, and its undo removes the half."""
