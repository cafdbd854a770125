"""Features by row id wherever they come from, their directions and nearest rows."""
