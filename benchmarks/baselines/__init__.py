"""What lora-sku is measured against, written as a competent person would; one method a file."""
