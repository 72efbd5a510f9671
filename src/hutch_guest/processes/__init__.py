"""Starting, watching, feeding, following and killing processes."""
