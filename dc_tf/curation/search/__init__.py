"""The images of a collection that are nearest to some images."""
