"""What makes a generated text fit for training: cleaning (mends a text) and gates (judge a text). Pure."""
