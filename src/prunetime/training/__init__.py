"""Fine-tuning and distillation, resumable to the byte."""
