"""Images that `dc_tf generate` draws."""
