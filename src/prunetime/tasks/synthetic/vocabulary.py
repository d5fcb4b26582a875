"""The words that `synthetic:ad-relevance` is made of: kinds of products, brands, attributes and how each is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProductKind:
    """A kind of product: `names` mean the same, `parts` are accessories of it, `sizes` are counted in `unit`."""

    category: str
    names: tuple[str, ...]
    parts: tuple[str, ...]
    materials: tuple[str, ...]
    unit: str
    sizes: tuple[str, ...]


# category: names; parts; materials; unit and sizes
_KINDS = """
furniture: sofa, couch, settee; slipcover, leg set, seat cushion; leather, velvet, linen; inch 60 72 84 96
furniture: armchair, easy chair, lounge chair; headrest cover, leg set; leather, velvet, rattan; inch 28 32 36 40
furniture: dresser, chest of drawers, bureau; drawer liner, knob set; oak, pine, walnut; inch 36 48 54 60
furniture: wardrobe, armoire, clothes closet; hanger rail, door hinge; oak, pine, bamboo; inch 36 48 72 80
furniture: nightstand, bedside table; glass top, drawer liner; oak, walnut, marble; inch 16 18 20 24
furniture: bookcase, bookshelf; shelf bracket, wall anchor; oak, steel, bamboo; inch 30 36 48 72
furniture: desk, writing table, workstation; cable tray, drawer lock; oak, glass, steel; inch 40 48 55 63
furniture: ottoman, footstool, pouf; storage tray, slipcover; leather, velvet, wicker; inch 16 20 24 30
furniture: dining table, kitchen table; glass top, leg set; oak, marble, walnut; inch 48 60 72 84
furniture: crib, baby cot; bumper pad, teething rail; pine, oak, bamboo; inch 38 44 50 52
appliance: refrigerator, fridge, icebox; water filter, door gasket; steel, glass, aluminum; liter 90 150 250 400
appliance: stove, kitchen range, cooker; burner grate, control knob; steel, enamel, iron; inch 20 24 30 36
appliance: dishwasher, dish cleaning machine; cutlery basket, spray arm; steel, plastic, aluminum; inch 18 24 30 32
appliance: kettle, water boiler; base plate, descaling filter; steel, glass, copper; liter 1 2 3 5
appliance: blender, smoothie maker; blade assembly, travel lid; steel, glass, plastic; watt 300 500 750 1000
appliance: coffee maker, coffee machine; paper filter, glass carafe; steel, plastic, copper; cup 4 8 12 14
appliance: slow cooker, crock pot; ceramic insert, glass lid; steel, ceramic, aluminum; quart 3 4 6 8
appliance: washing machine, clothes washer; drain hose, door seal; steel, plastic, enamel; kilogram 5 7 9 12
appliance: vacuum cleaner, hoover; dust bag, brush head; plastic, steel, aluminum; watt 400 600 800 1200
appliance: air conditioner, cooling unit; remote control, window kit; plastic, steel, aluminum; watt 700 900 1200 1800
appliance: space heater, radiator; thermostat knob, wheel set; steel, ceramic, iron; watt 500 1000 1500 2000
bath: faucet, tap; cartridge, aerator, handle; brass, steel, chrome; inch 4 8 10 12
bath: toilet, commode; seat lid, flush valve; ceramic, porcelain, steel; inch 12 14 16 19
bath: bathtub, soaking tub; drain plug, pillow rest; acrylic, iron, copper; inch 54 60 67 72
bath: sink, wash basin; drain strainer, mounting clip; porcelain, steel, granite; inch 18 22 25 33
bath: towel bar, towel rack; mounting bracket, end cap; brass, chrome, bamboo; inch 12 18 24 30
bath: mirror, looking glass; hanging wire, frame corner; oak, brass, bamboo; inch 20 24 30 40
tool: hammer, mallet; replacement handle, belt holder; steel, rubber, wood; ounce 8 12 16 20
tool: wrench, spanner; wall rack, grip sleeve; steel, chrome, aluminum; inch 6 8 10 12
tool: flashlight, torch; lens cover, wrist strap; aluminum, plastic, rubber; lumen 200 500 1000 2000
tool: cordless drill, power driver; battery pack, carrying case; plastic, aluminum, magnesium; volt 12 18 20 24
tool: ladder, folding steps; rubber feet, tool tray; aluminum, fiberglass, steel; foot 4 6 8 12
tool: shovel, spade; replacement handle, edge guard; steel, iron, fiberglass; inch 28 36 48 60
tool: pliers, gripping pincers; grip sleeve, spring kit; steel, chrome, titanium; inch 5 6 8 10
tool: tape measure, measuring tape; belt clip, blade lock; steel, plastic, fiberglass; foot 12 16 25 30
garden: lawn mower, grass cutter; blade, grass bag, air filter; steel, aluminum, plastic; inch 14 18 21 30
garden: hose, watering pipe; spray nozzle, reel, connector; rubber, vinyl, nylon; foot 25 50 75 100
garden: trash can, garbage bin, waste basket; liner bag, foot pedal; steel, plastic, bamboo; gallon 3 8 13 32
garden: wheelbarrow, garden cart; tire, handle grip; steel, plastic, wood; pound 200 300 400 600
garden: grill, barbecue; cover, drip pan, cleaning brush; steel, iron, ceramic; inch 18 22 30 36
garden: planter, flower pot; saucer, wall hook; ceramic, terracotta, plastic; inch 6 8 12 16
garden: gazebo, pavilion; mosquito net, roof canopy; steel, aluminum, cedar; foot 8 10 12 14
garden: fence, garden barrier; post cap, gate latch; cedar, vinyl, steel; foot 4 6 8 10
textile: rug, carpet; gripper pad, edge tape; wool, jute, cotton; foot 3 5 8 10
textile: curtains, drapes; rod, tieback, ring set; linen, velvet, cotton; inch 63 84 96 108
textile: blanket, throw; storage bag, clip set; wool, fleece, cotton; inch 50 60 80 90
textile: comforter, duvet, quilt; cover, storage bag; cotton, silk, linen; bed twin full queen king
textile: bed sheets, bed linens; clip set, storage bag; cotton, silk, bamboo; bed twin full queen king
textile: mattress, sleeping pad; protector, topper, base; foam, latex, wool; bed twin full queen king
textile: doormat, entrance mat; tray, edge tape; rubber, jute, nylon; inch 24 30 36 48
lighting: chandelier, hanging light; chain, crystal drop; brass, crystal, iron; lamp 3 5 6 8
lighting: sconce, wall lamp; shade, switch; brass, glass, iron; watt 20 40 60 75
lighting: light bulb, lamp globe; socket adapter, dimmer; glass, plastic, ceramic; watt 5 9 15 60
clothing: pants, trousers; belt, suspenders; denim, cotton, wool; waist 30 32 34 38
clothing: sweater, pullover, jumper; button set, storage bag; wool, cotton, cashmere; fit small medium large
clothing: sneakers, trainers, running shoes; laces, insoles; mesh, leather, canvas; shoe 7 8 9 11
clothing: jacket, coat; hood, zipper; leather, denim, nylon; fit small medium large
clothing: purse, handbag; shoulder strap, organizer; leather, canvas, nylon; inch 8 10 12 15
clothing: pajamas, sleepwear; gift bag, button set; silk, cotton, fleece; fit small medium large
clothing: eyeglasses, spectacles; case, cleaning cloth; titanium, plastic, steel; millimeter 48 50 52 55
travel: suitcase, luggage; wheel, lock, name tag; polycarbonate, nylon, leather; inch 20 24 28 32
travel: backpack, rucksack; rain cover, chest strap; nylon, canvas, leather; liter 20 30 45 65
travel: wallet, billfold; gift box, chain; leather, canvas, aluminum; card 4 6 8 12
travel: umbrella, parasol; stand, carrying sleeve; nylon, bamboo, fiberglass; inch 36 42 54 62
travel: tent, camping shelter; pole set, ground sheet, peg; nylon, canvas, cotton; person 2 4 6 8
electronics: television, tv; wall mount, remote control; plastic, aluminum, glass; inch 32 43 55 65
electronics: headphones, earphones; ear pads, carrying case; plastic, leather, aluminum; hour 8 20 30 50
electronics: laptop, notebook computer; sleeve, charger, docking station; aluminum, plastic, magnesium; inch 13 14 15 17
electronics: monitor, computer display; stand, privacy filter; plastic, aluminum, steel; inch 22 24 27 32
electronics: mobile phone, cellphone; case, screen protector; glass, aluminum, titanium; gigabyte 64 128 256 512
electronics: loudspeaker, audio speaker; stand, dust cover; plastic, wood, aluminum; watt 10 20 50 100
baby: stroller, pram, baby carriage; rain cover, cup holder; aluminum, steel, plastic; pound 12 16 22 30
baby: diapers, nappies; changing mat, disposal bag; cotton, bamboo, microfiber; pack 20 40 80 120
sport: bicycle, bike; saddle, lock, chain; aluminum, steel, carbon; inch 20 24 26 29
sport: treadmill, running machine; belt lubricant, floor mat; steel, aluminum, plastic; horsepower 1 2 3 4
sport: dumbbell, hand weight; storage rack, grip cover; iron, rubber, vinyl; pound 5 10 20 35
sport: yoga mat, exercise mat; carrying strap, cleaning spray; rubber, cork, foam; millimeter 4 6 8 10
sport: fishing rod, fishing pole; reel, tip guard; carbon, fiberglass, bamboo; foot 5 6 7 9
pet: leash, dog lead; clip, handle cover; leather, nylon, cotton; foot 4 6 10 15
pet: aquarium, fish tank; air pump, gravel, lid; glass, acrylic, plastic; gallon 5 10 20 55
pet: kennel, dog house; door flap, floor mat; cedar, plastic, steel; inch 24 32 42 48
office: eraser, pencil rubber; holder, refill; rubber, vinyl, foam; pack 4 6 12 24
office: scissors, shears; sheath, sharpener; steel, titanium, plastic; inch 5 7 8 10
office: notebook, writing pad; sleeve, pen loop; leather, paper, bamboo; page 80 120 200 300
"""

BRANDS = (
    *("Northfield", "Oakridge", "Summit", "Harbor", "Bluestone", "Evergreen", "Pioneer", "Lakeside", "Redwood"),
    *("Silverline", "Beacon", "Falcon", "Meadow", "Granite Peak", "Sunrise", "Anchor", "Willow", "Frontier", "Cobalt"),
    *("Maple Leaf", "Coastal", "Ironwood", "Horizon", "Sterling"),
)

COLORS = (
    ("red", "crimson", "scarlet"),
    ("blue", "navy", "azure"),
    ("gray", "grey", "charcoal"),
    ("white", "ivory"),
    ("black", "ebony"),
    ("green", "olive"),
    ("beige", "tan", "sand"),
    ("purple", "violet"),
    ("yellow", "mustard"),
    ("pink", "rose"),
)
"""Words of one row mean the same colour."""

QUALITIES = ("Modern", "Classic", "Premium", "Compact", "Deluxe", "Portable", "Durable", "Elegant", "Rustic")

ENDINGS = ("with Warranty", "for Home", "New Model", "Gift Boxed", "Easy Care", "Best Seller")

UNITS = {
    "inch": (("{} in.", "{}-Inch"), ("{} inch", "{} in", "{} inches")),
    "foot": (("{} ft.", "{}-Foot"), ("{} foot", "{} ft", "{} feet")),
    "gallon": (("{} gal.", "{}-Gallon"), ("{} gallon", "{} gal", "{} gallons")),
    "liter": (("{} L", "{}-Liter"), ("{} liter", "{} litre", "{} liters")),
    "quart": (("{} qt.", "{}-Quart"), ("{} quart", "{} qt", "{} quarts")),
    "ounce": (("{} oz.", "{}-Ounce"), ("{} ounce", "{} oz", "{} ounces")),
    "pound": (("{} lb.", "{}-Pound"), ("{} pound", "{} lbs", "{} pounds")),
    "kilogram": (("{} kg", "{}-Kilogram"), ("{} kg", "{} kilo", "{} kilograms")),
    "watt": (("{} W", "{}-Watt"), ("{} watt", "{} w", "{} watts")),
    "volt": (("{} V", "{}-Volt"), ("{} volt", "{} v", "{} volts")),
    "lumen": (("{} lm", "{}-Lumen"), ("{} lumen", "{} lm", "{} lumens")),
    "horsepower": (("{} HP", "{}-Horsepower"), ("{} hp", "{} horsepower")),
    "millimeter": (("{} mm", "{}-Millimeter"), ("{} mm", "{} millimeter")),
    "gigabyte": (("{} GB", "{}-Gigabyte"), ("{} gb", "{} gig", "{} gigabyte")),
    "hour": (("{} hr.", "{}-Hour"), ("{} hour", "{} hours")),
    "cup": (("{} Cup", "{}-Cup"), ("{} cup", "{} cups")),
    "pack": (("{} Count", "{}-Pack", "Set of {}"), ("{} pack", "{} pieces", "{} count")),
    "page": (("{} Pages", "{}-Page"), ("{} page", "{} sheets")),
    "card": (("{} Slots", "{}-Card"), ("{} card", "{} slot")),
    "person": (("{} Person", "{}-Man"), ("{} person", "{} man", "for {} people")),
    "lamp": (("{} Light", "{}-Bulb"), ("{} light", "{} lights", "{} bulb")),
    "bed": (("{} Size", "{}"), ("{} size", "{}", "{} bed")),
    "fit": (("Size {}", "{}"), ("size {}", "{}")),
    "waist": (("Waist {}", "{} W"), ("{} waist", "size {}", "waist {}")),
    "shoe": (("Size {}", "US {}"), ("size {}", "{}")),
}
"""How a size is written in a title and in a query."""


def _kind(line: str) -> ProductKind:
    category, _, rest = line.partition(": ")
    names, parts, materials, measure = rest.split("; ")
    unit, *sizes = measure.split()
    return ProductKind(category, _listed(names), _listed(parts), _listed(materials), unit, tuple(sizes))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


KINDS = tuple(_kind(line) for line in _KINDS.strip().splitlines())
