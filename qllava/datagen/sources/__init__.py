from qllava.datagen.sources.coco import read_coco
from qllava.datagen.sources.reading import read_source
from qllava.datagen.sources.scene import Instance, Note, Scene, Source

__all__ = ["Instance", "Note", "Scene", "Source", "read_coco", "read_source"]
