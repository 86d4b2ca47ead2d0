"""Words of everyday English, by what they can be in a sentence (grammar.py)."""


def _words(text: str) -> list[str]:
    return [word.replace("_", " ") for word in text.split()]


PEOPLE = _words("""
teacher doctor nurse farmer baker driver pilot sailor soldier painter singer writer lawyer judge plumber carpenter
gardener waiter cook butcher tailor barber dentist engineer scientist student professor librarian mayor priest king
queen prince princess neighbor friend brother sister mother father uncle aunt cousin grandfather grandmother son
daughter husband wife child boy girl man woman baby stranger visitor tourist guest customer manager clerk secretary
fisherman hunter miner mechanic electrician fireman policeman detective thief lifeguard coach player runner swimmer
dancer actor musician drummer guitarist violinist photographer reporter editor author poet inventor explorer captain
chef banker merchant shopkeeper tenant landlord owner worker builder architect designer programmer""")

NAMES = _words("""
Anna Ben Clara David Emma Frank Grace Henry Isabel Jack Kate Leo Maria Nathan Olivia Paul Rachel Sam Tina Victor Wendy
Alice Bob Carol Daniel Ellen Fred George Helen Ian Julia Kevin Laura Mark Nora Oscar Peter Rosa Simon Tom Ursula
Walter Amy Brian Cathy Diana Eric Fiona Greg Hannah Irene James Karen Linda Michael Nancy Patrick Robert Sarah Thomas
Vera William Adam Betty Charles Donna Edward Florence Gary Holly Jason Kim Lucy Martin Nicole Oliver Philip Ruth
Steven""")

ANIMALS = _words("""
dog cat horse cow pig sheep goat chicken duck goose rabbit mouse rat squirrel fox wolf bear lion tiger elephant
giraffe zebra monkey camel donkey deer whale dolphin shark turtle frog snake lizard eagle owl parrot crow pigeon
sparrow butterfly spider bee ant fly beetle crab lobster octopus penguin seal kangaroo koala puppy kitten pony lamb
hamster""")

THINGS = _words("""
table chair lamp clock mirror window door key lock box basket bottle cup glass plate bowl spoon fork knife pan kettle
oven fridge sink towel soap brush comb blanket pillow bed sofa carpet curtain shelf drawer closet ladder hammer nail
saw rope chain wheel engine bicycle car truck bus boat ship train plane bridge tunnel fence gate wall roof chimney
stove candle match newspaper magazine letter envelope stamp parcel ticket map camera phone computer radio television
piano guitar violin drum flute bell whistle ball kite doll toy puzzle coin wallet purse bag suitcase umbrella coat
jacket shirt dress skirt hat cap scarf glove boot shoe sock belt button ring necklace watch pencil pen notebook book
picture painting statue flag tent backpack bucket shovel rake hose seed flower tree bush leaf branch root stone rock
shell feather""")

FOODS = _words("""
bread butter cheese milk cream egg rice pasta soup salad sandwich pizza pie cake cookie chocolate honey sugar salt
pepper apple pear peach plum cherry grape orange lemon banana strawberry melon pumpkin potato tomato carrot onion
garlic cabbage bean corn mushroom fish chicken beef ham bacon sausage coffee tea juice water wine beer pancake muffin
jam yogurt noodles popcorn peanuts almonds""")

PLACES = _words("""
house kitchen garden garage attic basement bedroom bathroom office school library museum theater cinema hospital
church station airport harbor market bakery pharmacy bank hotel restaurant cafe factory farm barn field forest park
beach island river lake mountain valley desert village town city castle tower square street corner road highway bridge
playground stadium gym pool zoo circus prison court university laboratory workshop warehouse parking_lot bus_stop
post_office police_station train_station swimming_pool shopping_center town_hall""")

ADJECTIVES = _words("""
old new young big small tall short long heavy light fast slow warm cold hot dry wet clean dirty empty full open broken
strange quiet loud bright dark soft hard smooth rough sharp round flat deep shallow wide narrow thick thin rich poor
happy sad angry tired hungry thirsty brave shy polite rude clever lazy busy lonely famous friendly gentle kind cruel
honest curious careful nervous proud serious funny beautiful ugly pretty red blue green yellow white black brown gray
purple pink golden silver wooden plastic metal paper modern ancient expensive cheap useful useless simple difficult
dangerous safe fresh sweet sour bitter salty spicy delicious fancy plain local foreign secret popular rare common""")

TRANSITIVE = _words("""
found lost bought sold opened closed cleaned washed painted repaired broke carried moved pushed pulled lifted dropped
threw caught kicked hid stole borrowed returned wanted needed liked loved hated watched saw noticed touched held
gave_up took brought sent received ordered delivered packed wrapped measured counted collected arranged drew described
remembered forgot admired examined photographed protected destroyed burned cut folded hung covered filled emptied used
tested built designed invented discovered followed missed recognized visited""")

INTRANSITIVE = _words("""
slept laughed cried smiled waited worked walked ran jumped danced sang talked whispered shouted listened rested stayed
arrived left returned traveled fell sat stood knelt swam dreamed played studied practiced complained argued apologized
agreed hesitated disappeared relaxed yawned sneezed coughed trembled""")

EAT = _words("""
ate cooked baked tasted ordered shared bought served prepared finished enjoyed dropped refused sold chopped""")

TIMES = ["yesterday", "today", "last night", "this morning", "in the evening", "at noon", "at midnight", "after lunch",
         "before breakfast", "on Monday", "on Tuesday", "on Wednesday", "on Thursday", "on Friday", "on Saturday",
         "on Sunday", "last week", "last month", "last year", "in January", "in February", "in March", "in April",
         "in May", "in June", "in July", "in August", "in September", "in October", "in November", "in December",
         "in spring", "in summer", "in autumn", "in winter", "two days ago", "a week ago", "many years ago",
         "every day", "every weekend", "during the storm", "during the holidays", "after the meeting",
         "before the concert"]

MANNERS = _words("""
quickly slowly quietly loudly carefully happily sadly angrily politely suddenly finally secretly gently easily again
together alone early late""")

PREPOSITIONS = ["in", "near", "behind", "outside", "in front of", "across from", "next to", "not far from"]

WEATHER = ["rain", "snow", "wind", "fog", "sunshine", "thunder", "ice", "clouds", "frost", "hail"]

SUBJECTS = _words("""
music history math art science biology chemistry physics geography politics football tennis basketball baseball chess
cooking gardening fishing hiking swimming painting photography poetry travel medicine law business economics fashion
astronomy religion philosophy language dancing sailing cycling skiing""")

# country: capital, continent
COUNTRIES = {
    "France": ("Paris", "Europe"), "Germany": ("Berlin", "Europe"), "Italy": ("Rome", "Europe"),
    "Spain": ("Madrid", "Europe"), "Portugal": ("Lisbon", "Europe"), "England": ("London", "Europe"),
    "Ireland": ("Dublin", "Europe"), "Greece": ("Athens", "Europe"), "Austria": ("Vienna", "Europe"),
    "Poland": ("Warsaw", "Europe"), "Hungary": ("Budapest", "Europe"), "Norway": ("Oslo", "Europe"),
    "Sweden": ("Stockholm", "Europe"), "Finland": ("Helsinki", "Europe"), "Denmark": ("Copenhagen", "Europe"),
    "Belgium": ("Brussels", "Europe"), "Russia": ("Moscow", "Europe"), "Romania": ("Bucharest", "Europe"),
    "Bulgaria": ("Sofia", "Europe"), "Croatia": ("Zagreb", "Europe"), "Serbia": ("Belgrade", "Europe"),
    "Ukraine": ("Kyiv", "Europe"), "Switzerland": ("Bern", "Europe"), "Iceland": ("Reykjavik", "Europe"),
    "the Netherlands": ("Amsterdam", "Europe"), "Scotland": ("Edinburgh", "Europe"),
    "Japan": ("Tokyo", "Asia"), "China": ("Beijing", "Asia"), "India": ("Delhi", "Asia"),
    "Thailand": ("Bangkok", "Asia"), "Vietnam": ("Hanoi", "Asia"), "South Korea": ("Seoul", "Asia"),
    "Indonesia": ("Jakarta", "Asia"), "the Philippines": ("Manila", "Asia"), "Iran": ("Tehran", "Asia"),
    "Iraq": ("Baghdad", "Asia"), "Nepal": ("Kathmandu", "Asia"), "Pakistan": ("Islamabad", "Asia"),
    "Malaysia": ("Kuala Lumpur", "Asia"), "Mongolia": ("Ulaanbaatar", "Asia"), "Bangladesh": ("Dhaka", "Asia"),
    "Egypt": ("Cairo", "Africa"), "Kenya": ("Nairobi", "Africa"), "Nigeria": ("Abuja", "Africa"),
    "Morocco": ("Rabat", "Africa"), "Ethiopia": ("Addis Ababa", "Africa"), "Ghana": ("Accra", "Africa"),
    "Tunisia": ("Tunis", "Africa"), "Algeria": ("Algiers", "Africa"), "Uganda": ("Kampala", "Africa"),
    "Senegal": ("Dakar", "Africa"), "Zimbabwe": ("Harare", "Africa"), "Libya": ("Tripoli", "Africa"),
    "Canada": ("Ottawa", "North America"), "Mexico": ("Mexico City", "North America"),
    "Cuba": ("Havana", "North America"), "Jamaica": ("Kingston", "North America"),
    "Argentina": ("Buenos Aires", "South America"), "Brazil": ("Brasilia", "South America"),
    "Chile": ("Santiago", "South America"), "Peru": ("Lima", "South America"),
    "Colombia": ("Bogota", "South America"), "Ecuador": ("Quito", "South America"),
    "Venezuela": ("Caracas", "South America"), "Uruguay": ("Montevideo", "South America")}

OPPOSITES = dict(pair.split(":") for pair in """
hot:cold big:small fast:slow old:young tall:short long:short high:low happy:sad rich:poor light:dark day:night up:down
left:right open:closed full:empty hard:soft wet:dry clean:dirty early:late easy:difficult strong:weak loud:quiet
good:bad inside:outside before:after begin:end love:hate win:lose buy:sell push:pull always:never black:white
front:back true:false thick:thin wide:narrow deep:shallow heavy:light near:far sweet:bitter smooth:rough brave:cowardly
cheap:expensive safe:dangerous sharp:dull first:last male:female north:south east:west summer:winter""".split())

DIGITS = _words("zero one two three four five six seven eight nine")
TEENS = _words("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = _words("""first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth""")
MONTHS = _words("January February March April May June July August September October November December")
COMMANDS = _words("enter erase help repeat start stop yes no go rubout")
