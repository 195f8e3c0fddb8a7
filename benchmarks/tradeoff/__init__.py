"""What unlearning brings and what it costs, this method beside others: a method is a recipe."""
