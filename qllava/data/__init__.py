"""From files to packed training steps: formats, images, chat templates, labels, trees, collator."""
