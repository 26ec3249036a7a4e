"""What a run made, on the Hugging Face hub: data sets and models with cards."""
