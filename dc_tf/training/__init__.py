"""The paper's algorithm: `loop` has it whole."""
