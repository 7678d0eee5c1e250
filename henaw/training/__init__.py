"""Training: one readable loop, the events it emits, and the fitted clock it ends in. Knows PyTorch, not MLflow."""
