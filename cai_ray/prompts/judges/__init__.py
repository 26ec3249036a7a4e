"""What each kind of judge is asked, beside the parser of its verdict."""
