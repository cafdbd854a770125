"""Classification and detection on PASCAL VOC 2007."""
