"""Development kits of PASCAL VOC."""
