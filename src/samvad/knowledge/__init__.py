"""What the assistant knows: documents, passages, retrieval and extractive answers, in English, Hindi and beyond."""
