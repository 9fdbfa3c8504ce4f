"""The brief instructions of caption pairs: eleven ways to ask for one sentence."""

BRIEF_INSTRUCTIONS = (
    "Caption this picture in a few words.",
    "Say briefly what is in the image.",
    "What is shown here? Keep it short.",
    "Sum up the picture in one line.",
    "Give the picture a short caption.",
    "In one sentence, what does this image show?",
    "Tell me in brief what you see.",
    "Write one short line about this photo.",
    "Name what the image contains, briefly.",
    "What is in view? A short answer will do.",
    "Put the content of this picture into a short sentence.",
)
