"""What is learned from text: the late-interaction projection and the centroids that ship with the bundled model."""
