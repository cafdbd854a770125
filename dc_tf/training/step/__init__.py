"""A step of a stage: the learner, and the heads that it trains."""
