"""The words of the toy world, each with its German.

Every word has one translation and one grammatical gender, so a sentence has exactly one German translation. All text
of this recipe is in lower case and without punctuation, as transcripts of speech are. `m`, `f`, `n` are the German
genders; persons also have the English pronoun's (`she` for `girl`, although it is `das mädchen`).
"""

from word_types import Adjective, Person, Place, Thing, Time, Verb


def _rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


PERSONS = [Person(*row) for row in _rows("""
    farmer bauer m
    teacher lehrerin f
    doctor ärztin f
    nurse krankenschwester f
    baker bäcker m
    queen königin f
    king könig m
    student studentin f
    singer sängerin f
    painter maler m
    pilot pilot m
    soldier soldat m
    girl mädchen n she
    boy junge m
    woman frau f
    man mann m
    grandmother großmutter f
    grandfather großvater m
    neighbor nachbarin f
    driver fahrer m
    judge richterin f
    lawyer anwalt m
    writer schriftsteller m
    hunter jäger m
    gardener gärtner m
    dancer tänzerin f
    thief dieb m
    waiter kellner m
    princess prinzessin f
    uncle onkel m
""")]

NAMES = [Person(name, name, gender, is_name=True) for name, gender in _rows("""
    anna f
    emma f
    julia f
    laura f
    sophie f
    nina f
    maria f
    clara f
    helen f
    victoria f
    peter m
    thomas m
    david m
    martin m
    felix m
    oscar m
    simon m
    robert m
    george m
    benjamin m
""")]

THINGS = [Thing(*row) for row in _rows("""
    bag bags tasche taschen f
    book books buch bücher n
    hat hats hut hüte m
    chair chairs stuhl stühle m
    table tables tisch tische m
    lamp lamps lampe lampen f
    clock clocks uhr uhren f
    bottle bottles flasche flaschen f
    cup cups tasse tassen f
    knife knives messer messer n
    key keys schlüssel schlüssel m
    letter letters brief briefe m
    picture pictures bild bilder n
    shirt shirts hemd hemden n
    coat coats mantel mäntel m
    shoe shoes schuh schuhe m
    ring rings ring ringe m
    box boxes kiste kisten f
    basket baskets korb körbe m
    bicycle bicycles fahrrad fahrräder n
    car cars auto autos n
    boat boats boot boote n
    doll dolls puppe puppen f
    apple apples apfel äpfel m
    flower flowers blume blumen f
    candle candles kerze kerzen f
    mirror mirrors spiegel spiegel m
    guitar guitars gitarre gitarren f
    umbrella umbrellas regenschirm regenschirme m
    carpet carpets teppich teppiche m
    pillow pillows kissen kissen n
    suitcase suitcases koffer koffer m
""")]

QUALITIES = [Adjective(*row) for row in _rows("""
    big groß
    small klein
    old alt
    new neu
    cheap billig
    expensive teur
    heavy schwer
    beautiful schön
    ugly hässlich
    broken kaputt
    dirty schmutzig
    strange seltsam
    round rund
    empty leer
""")]

COLOURS = [Adjective(*row) for row in _rows("""
    red rot
    blue blau
    green grün
    yellow gelb
    black schwarz
    white weiß
    brown braun
    gray grau
    golden golden
""")] + [Adjective("pink", "rosa", declines=False)]

CHARACTERS = [Adjective(*row) for row in _rows("""
    young jung
    tall groß
    happy glücklich
    sad traurig
    tired müd
    angry wütend
    rich reich
    poor arm
    clever klug
    lazy faul
    famous berühmt
    brave mutig
""")]

VERBS = [Verb(*row) for row in _rows("""
    bought buy kaufte
    sold sell verkaufte
    found find fand
    lost lose verlor
    painted paint malte
    washed wash wusch
    carried carry trug
    hid hide versteckte
    broke break zerbrach
    repaired repair reparierte
    brought bring brachte
    stole steal stahl
    built build baute
    threw throw warf
    forgot forget vergaß
    counted count zählte
    needed need brauchte
    collected collect sammelte
    photographed photograph fotografierte
    admired admire bewunderte
    ordered order bestellte
    packed pack packte
    measured measure maß
    described describe beschrieb
""")]

NUMBERS = dict(_rows("""
    two zwei
    three drei
    four vier
    five fünf
    six sechs
    seven sieben
    eight acht
    nine neun
    ten zehn
    eleven elf
    twelve zwölf
    twenty zwanzig
"""))

PREPOSITIONS = {"in": "in", "behind": "hinter", "in front of": "vor", "next to": "neben"}

PLACE_NOUNS = _rows("""
    park park m
    garden garten m
    school schule f
    church kirche f
    station bahnhof m
    kitchen küche f
    office büro n
    hotel hotel n
    hospital krankenhaus n
    museum museum n
    library bibliothek f
    forest wald m
    castle schloss n
    house haus n
    bank bank f
    factory fabrik f
    bakery bäckerei f
    theater theater n
    airport flughafen m
    zoo zoo m
    barn scheune f
    tower turm m
""")

PLACES = {noun: {english: Place(english, noun, german, german_noun, gender)
                 for english, german in PREPOSITIONS.items()} for noun, german_noun, gender in PLACE_NOUNS}

TIMES = [Time(*(field.strip() for field in line.split("|"))) for line in """
    on monday | am montag | on tuesday
    on tuesday | am dienstag | on wednesday
    on wednesday | am mittwoch | on thursday
    on thursday | am donnerstag | on friday
    on friday | am freitag | on saturday
    on saturday | am samstag | on sunday
    on sunday | am sonntag | on monday
    today | heute | tomorrow
    yesterday | gestern | today
    this morning | heute morgen | this evening
    last night | letzte nacht | at dawn
    last week | letzte woche | this week
    last month | letzten monat | this month
    last year | letztes jahr | this year
    last summer | letzten sommer | in autumn
    last winter | letzten winter | in spring
    at noon | am mittag | in the afternoon
    in the evening | am abend | at midnight
""".strip().splitlines()]
