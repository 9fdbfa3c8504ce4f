"""The words the caption reader knows: colours, numbers, adjectives, and what else people call COCO's categories.

Small on purpose. A word that is missing here costs a claim, never the truth of one: what the reader does not know
makes it say less.
"""

from __future__ import annotations

from collections.abc import Mapping


def words(text: str) -> tuple[str, ...]:
    """A list of words, written as one text."""
    return tuple(text.split())


# Colour words -> the one answer they are given.
COLORS: Mapping[str, str] = {
    **{
        name: name
        for name in words(
            "red orange yellow green blue purple pink brown black white gray cyan magenta teal turquoise gold silver "
            "tan beige maroon navy olive lime indigo cream"
        )
    },
    "grey": "gray",
    "violet": "purple",
    "golden": "gold",
}

# Two people may call one object by either name: seeing one, "no" to the other is not certain.
_CONFUSABLE = frozenset(
    frozenset(pair.split("/"))
    for pair in words(
        "red/orange red/pink red/brown red/maroon orange/yellow orange/brown orange/gold orange/tan yellow/gold "
        "yellow/lime yellow/cream yellow/beige green/teal green/lime green/olive green/turquoise green/cyan blue/cyan "
        "blue/teal blue/turquoise blue/navy blue/indigo blue/purple black/navy black/gray black/brown white/gray "
        "white/silver white/cream white/beige gray/silver gray/brown brown/tan brown/beige brown/maroon brown/gold "
        "brown/olive purple/pink purple/magenta purple/indigo purple/maroon pink/magenta cyan/teal cyan/turquoise "
        "teal/turquoise tan/beige tan/cream tan/gold beige/cream navy/indigo magenta/maroon olive/lime"
    )
)

# Several colours, or none in particular.
PATTERNS = frozenset(
    words(
        "striped spotted checkered checked plaid colored coloured multicolored multicoloured colorful colourful "
        "rainbow patterned polka dyed toned tone reddish brownish bluish greenish yellowish pinkish camouflage floral "
        "mixed neon pastel"
    )
)

# Words that may stand between an article and its noun without naming another thing.
ADJECTIVES = frozenset(
    words(
        "big large small little tiny huge giant tall short long old new young wooden metal plastic glass double decker "
        "empty full open closed dirty clean shiny bright dark light pale deep vintage antique modern fluffy furry cute "
        "beautiful pretty nice round wild adult baby wet dry very fancy classic solid plain filled medium sized same "
        "other"
    )
)

NUMBERS: Mapping[str, int] = {
    word: value
    for value, word in enumerate(
        words("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen")
    )
} | {"single": 1, "lone": 1, "solo": 1, "solitary": 1, "both": 2, "no": 0, "without": 0}

ARTICLES = frozenset(words("a an the this that these those his her its their my your our"))

# An amount, but not a number.
VAGUE = frozenset(
    words(
        "several many some few multiple various numerous different more most all every each any countless dozen dozens "
        "lots other"
    )
)
# "a group of dogs", "a couple of dogs"
AMOUNTS = frozenset(
    words(
        "group bunch crowd herd flock pack lot lots row rows line lines stack stacks pile piles pair pairs couple "
        "couples set sets number dozens hundreds tons team family collection variety assortment plenty swarm school "
        "fleet bowl box basket plate tray shelf one two three four five six seven eight nine ten some most all many "
        "each none"
    )
)

# What may follow a noun that ends its phrase; after any other word the noun may only describe the next one
# ("a red bus stop" holds no red bus).
AFTER_NOUN = frozenset(
    words(
        "and or but on in at with to of near next beside besides under over above below beneath behind inside outside "
        "by is are was were that which who while as from for against around between among through along across into "
        "onto up down has have off it its left right atop towards toward within without there here sits stands lies "
        "lays rests parked covered filled made seated perched being going coming"
    )
)
# Actions that are whole without an object, so that "The dog is sitting." may be said.
ACTIONS = frozenset(
    words(
        "sitting standing lying walking running sleeping flying swimming jumping grazing eating surfing skiing skating "
        "resting smiling floating skateboarding snowboarding"
    )
)
OTHER_VERBS = frozenset(
    words(
        "riding playing holding wearing looking driving drinking laying hanging moving traveling leaning waiting "
        "posing carrying watching using doing having getting taking making crossing pulling"
    )
)

# Words for the picture itself: "on the left of the picture" is a place, "on the left of the dog" is not.
FRAME = frozenset(words("picture image photo photograph frame scene canvas shot screen background page"))

# category -> (same thing, one kind of it, words that only might mean it). Plurals are added by rule.
SYNONYMS: Mapping[str, tuple[str, str, str]] = {
    "person": (
        "human",
        "man,woman,boy,girl,child,kid,guy,gentleman,lady,baby,toddler,adult,male,female,player,skier,surfer,"
        "snowboarder,skateboarder,rider,pedestrian,passenger,officer,policeman,cop,chef,cook,worker,cyclist,biker,"
        "motorcyclist,batter,catcher,umpire,pitcher,tourist,driver,student,friend,soldier,farmer,bride,groom,teenager,"
        "spectator,individual,teen,infant,fisherman,cowboy,waiter,waitress,mother,father,son,daughter,dad,mom,swimmer,"
        "skater,bicyclist,dude,customer,shopper,commuter,vendor,walker,runner,firefighter,fireman,performer,artist,"
        "doctor,teacher,model,athlete,businessman,jockey,golfer,hiker,equestrian",
        "he,she,him,her,his,hers,they,someone,somebody,anyone,everyone,hand,arm,face,finger,foot,leg,head,crowd,"
        "family,couple,group,team,audience,pair,police,staff,class,self,selfie,lap",
    ),
    "bicycle": ("bike,cycle", "tricycle,tandem", ""),
    "car": ("automobile", "sedan,taxi,cab,suv,minivan,convertible,limousine,jeep", "vehicle,traffic,van,auto"),
    "motorcycle": ("motorbike,motor cycle", "moped,dirt bike,harley", "bike,scooter,vehicle"),
    "airplane": ("plane,aeroplane,aircraft", "jet,airliner,biplane,jetliner,seaplane", "jumbo,aviation"),
    "bus": ("", "minibus,coach,trolley", "vehicle,traffic"),
    "train": ("", "locomotive,subway,tram,monorail", "railway,rail,engine,trolley,caboose"),
    "truck": ("", "pickup,lorry,firetruck,semi", "van,vehicle,trailer,traffic,fire engine"),
    "boat": ("", "ship,canoe,sailboat,kayak,yacht,ferry,rowboat,raft,gondola,vessel,speedboat,barge", "harbor,marina"),
    "traffic light": ("stoplight,stop light,traffic signal", "", "light,signal"),
    "fire hydrant": ("hydrant", "", ""),
    "stop sign": ("", "", "sign,stop"),
    "parking meter": ("", "", "meter"),
    "bench": ("", "", "seat,pew"),
    "bird": (
        "",
        "seagull,gull,duck,pigeon,parrot,goose,owl,eagle,chicken,swan,crow,robin,hawk,pelican,rooster,hen,duckling,"
        "penguin,ostrich,flamingo,sparrow,heron,peacock,turkey,parakeet,finch,hummingbird,crane,stork",
        "fowl",
    ),
    "cat": ("kitty", "kitten,tabby,feline", "pet"),
    "dog": (
        "",
        "puppy,pup,poodle,bulldog,dachshund,terrier,labrador,collie,retriever,pug,hound,canine,chihuahua",
        "pet",
    ),
    "horse": ("", "pony,foal,colt,stallion,mare", "carriage,equestrian"),
    "sheep": ("", "lamb,ram,ewe", "goat,wool"),
    "cow": ("", "bull,calf,ox,steer,heifer,bovine,longhorn", "cattle,buffalo,bison,yak"),
    "elephant": ("", "", "tusk"),
    "bear": ("", "grizzly,panda,cub", ""),
    "zebra": ("", "", ""),
    "giraffe": ("", "", ""),
    "backpack": ("rucksack,knapsack", "", "bag,luggage,pack"),
    "umbrella": ("", "parasol", "shade,canopy"),
    "handbag": ("purse", "", "bag,luggage,tote"),
    "tie": ("necktie", "bowtie,bow tie", "suit"),
    "suitcase": ("", "briefcase", "bag,luggage,baggage,case"),
    "frisbee": ("", "", "disc,disk,frisby"),
    "skis": ("ski", "", "skiing,skier,skies,skiis"),
    "snowboard": ("snow board", "", "board,snowboarder,snowboarding"),
    "sports ball": ("", "soccer ball,tennis ball,basketball,football,baseball,volleyball", "ball,soccer,tennis"),
    "kite": ("", "parasail", ""),
    "baseball bat": ("", "", "bat"),
    "baseball glove": ("mitt", "", "glove"),
    "skateboard": ("skate board", "", "board,skateboarder,skateboarding,longboard"),
    "surfboard": ("surf board", "", "board,surfer,surfing,paddleboard"),
    "tennis racket": ("racket,racquet,tennis racquet", "", "tennis,raquet"),
    "bottle": ("", "", "beer,wine,drink,beverage,jar"),
    "wine glass": ("", "", "glass,wine,goblet,drink"),
    "cup": ("", "mug,teacup", "glass,coffee,tea,drink,beverage"),
    "fork": ("", "", "utensil,silverware,cutlery"),
    "knife": ("", "", "utensil,silverware,cutlery,blade"),
    "spoon": ("", "", "utensil,silverware,cutlery"),
    "bowl": ("", "", "dish,soup,container"),
    "banana": ("", "", "fruit,bunch,plantain"),
    "apple": ("", "", "fruit"),
    "sandwich": ("", "burger,hamburger,sub,panini", "bun,wrap,toast"),
    "orange": ("", "tangerine,clementine", "fruit,citrus"),
    "broccoli": ("", "", "vegetable,veggie,salad"),
    "carrot": ("", "", "vegetable,veggie,salad"),
    "hot dog": ("hotdog", "", "sausage,bun,chili dog,corn dog"),
    "pizza": ("", "", "slice,pie"),
    "donut": ("doughnut", "", "pastry"),
    "cake": ("", "cupcake,cheesecake", "dessert,pastry,pie,slice"),
    "chair": ("", "armchair,stool,recliner,rocker,lawn chair", "seat,furniture,seating"),
    "couch": ("sofa", "loveseat", "futon,furniture,seat"),
    "potted plant": ("houseplant", "", "plant,flower,pot,bush,tree,shrub"),
    "bed": ("", "bunk", "mattress,bedroom,crib,blanket"),
    "dining table": ("", "", "table,desk,counter,dining,restaurant"),
    "toilet": ("", "urinal", "bathroom,restroom,commode"),
    "tv": ("television", "", "monitor,screen,flatscreen"),
    "laptop": ("", "notebook", "computer,macbook"),
    "mouse": ("", "", "computer"),
    "remote": ("remote control", "", "controller,control,wii"),
    "keyboard": ("", "", "computer"),
    "cell phone": ("cellphone,mobile phone,smartphone,smart phone", "iphone", "phone,mobile,telephone,device"),
    "microwave": ("microwave oven", "", "oven,appliance"),
    "oven": ("", "", "stove,range,appliance,kitchen"),
    "toaster": ("", "", "appliance"),
    "sink": ("", "washbasin", "basin,faucet,bathroom,kitchen"),
    "refrigerator": ("fridge,refridgerator", "", "freezer,appliance,kitchen"),
    "book": ("", "", "novel,magazine,reading,library,shelf,bookshelf,bookcase"),
    "clock": ("", "", "watch,time"),
    "vase": ("", "", "pot,flower,pottery,jar"),
    "scissors": ("scissor", "", "shears"),
    "teddy bear": ("teddy,stuffed bear", "", "stuffed animal,toy,bear,plush,doll"),
    "hair drier": ("hair dryer,hairdryer,blow dryer,blowdryer", "", "dryer,drier"),
    "toothbrush": ("tooth brush", "", "brush"),
}

# The colour of a person is a word about people, not about what is seen.
NO_COLOR = frozenset({"person"})


def confusable(one: str, other: str) -> bool:
    """Whether one object might be called by both colour names."""
    return one == other or frozenset((one, other)) in _CONFUSABLE
