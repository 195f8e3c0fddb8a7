"""Selective knowledge negation unlearning with LoRA on a quantized base."""
