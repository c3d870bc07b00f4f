"""Everything offline and on disk: analysis, views, centroids, segments, collections. Never imports torch."""
