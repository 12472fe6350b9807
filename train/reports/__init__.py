"""Many fits side by side: heads compared, layers reported."""
