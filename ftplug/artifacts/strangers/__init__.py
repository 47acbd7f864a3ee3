"""What a stranger's artifact may not do: choose code, hang, exhaust memory, say two things."""
