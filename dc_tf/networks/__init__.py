"""Networks of other programs: SavedModels, Keras files, ONNX files, addresses of TensorFlow Hub."""
