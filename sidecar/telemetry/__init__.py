"""What the gateway tells of itself: log lines, metric series and spans, and the clock they use."""
