"""Tissue segmentation from patch labels: CAMs vote on masks, and noise is suppressed where masks are learned."""
