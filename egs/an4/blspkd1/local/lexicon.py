"""The words of AN4 (letters, numbers, dates, commands), their values and their German; and names to be spelt."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ONES = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
TEENS = {"ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
         "seventeen": 17, "eighteen": 18, "nineteen": 19}
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
ZEROS = {"zero": 0, "oh": 0}
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
            "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15,
            "sixteenth": 16, "seventeenth": 17, "eighteenth": 18, "nineteenth": 19, "twentieth": 20, "thirtieth": 30}
MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
          "december"]
COMMANDS = ["yes", "no", "go", "stop", "start", "help", "repeat", "erase", "rubout", "enter"]

GERMAN = {
    "zero": "null", "oh": "null", "one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf",
    "six": "sechs", "seven": "sieben", "eight": "acht", "nine": "neun", "ten": "zehn", "eleven": "elf",
    "twelve": "zwölf", "thirteen": "dreizehn", "fourteen": "vierzehn", "fifteen": "fünfzehn", "sixteen": "sechzehn",
    "seventeen": "siebzehn", "eighteen": "achtzehn", "nineteen": "neunzehn", "twenty": "zwanzig", "thirty": "dreißig",
    "forty": "vierzig", "fifty": "fünfzig", "sixty": "sechzig", "seventy": "siebzig", "eighty": "achtzig",
    "ninety": "neunzig", "hundred": "hundert", "thousand": "tausend", "and": "und", "half": "halb", "of": "von",
    "first": "erster", "second": "zweiter", "third": "dritter", "fourth": "vierter", "fifth": "fünfter",
    "sixth": "sechster", "seventh": "siebter", "eighth": "achter", "ninth": "neunter", "tenth": "zehnter",
    "eleventh": "elfter", "twelfth": "zwölfter", "thirteenth": "dreizehnter", "fourteenth": "vierzehnter",
    "fifteenth": "fünfzehnter", "sixteenth": "sechzehnter", "seventeenth": "siebzehnter", "eighteenth": "achtzehnter",
    "nineteenth": "neunzehnter", "twentieth": "zwanzigster", "thirtieth": "dreißigster",
    "january": "januar", "february": "februar", "march": "märz", "april": "april", "may": "mai", "june": "juni",
    "july": "juli", "august": "august", "september": "september", "october": "oktober", "november": "november",
    "december": "dezember", "yes": "ja", "no": "nein", "go": "los", "stop": "halt", "start": "anfang", "help": "hilfe",
    "repeat": "wiederhole", "erase": "lösche", "rubout": "radiere", "enter": "eingabe", "area": "bereich",
    "code": "kode", "apostrophe": "apostroph"}

SPELT_NAMES = """
james john michael david william richard thomas charles daniel
paul mark george kenneth edward brian ronald anthony kevin
jason jeffrey gary timothy larry frank scott eric andrew raymond gregory joshua jerry dennis walter peter harold douglas
henry carl arthur ryan albert jack ralph lawrence nicholas bruce adam harry fred wayne billy louis jeremy aaron philip
mary patricia barbara elizabeth jennifer maria susan dorothy lisa nancy karen betty helen sandra donna carol ruth sharon
michelle laura sarah kimberly deborah jessica shirley cynthia angela melissa brenda amy anna virginia rebecca kathleen
pamela martha amanda stephanie carolyn christine marie janet catherine diane alice julie heather teresa doris gloria
evelyn jean cheryl mildred katherine joan ashley judith rose janice kelly nicole judy kathy theresa beverly denise tammy
smith johnson williams brown jones miller davis wilson anderson moore jackson white harris martin thompson garcia lewis
lee walker hall allen young king wright hill lopez green
adams baker nelson carter mitchell turner parker collins edwards
stewart morris rogers reed cook morgan bell murphy bailey cooper cox howard ward peterson gray watson brooks sanders
price bennett wood barnes ross henderson jenkins perry powell long foster bryant simmons graham sullivan wallace west
cole hayes ford owens kennedy ellis fisher reynolds mason fox webb gordon hunter snyder simpson stevens tucker porter
schmidt kowalski novak rossi keller weber hoffman zimmer lambert dupont quinn vaughn jensen olsen larsen
boston denver dallas seattle chicago detroit cleveland columbus akron erie buffalo albany trenton newark dover camden
baltimore richmond norfolk raleigh atlanta savannah mobile jackson memphis nashville louisville lexington dayton toledo
madison omaha lincoln topeka tulsa austin houston phoenix tucson salem portland eugene tacoma spokane helena fargo
bethel latrobe greensburg monroeville homestead carnegie etna aspinwall sewickley ambridge beaver butler kittanning
""".split()
STREETS = ["drive", "lane", "road", "street", "avenue", "court", "place", "way", "circle", "terrace", "boulevard"]
STREET_NAMES = ["maple", "cedar", "elm", "pine", "walnut", "chestnut", "highland", "forest", "river", "lake", "park",
                "church", "mill", "spring", "sunset", "valley", "orchard", "meadow", "north", "south", "liberty",
                "penn"]
