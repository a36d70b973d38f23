"""Word lists and the small fact base that the generated data draws from. Everything here was written for the demo model."""

CAPITALS = {
    "Norway": "Oslo", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Iceland": "Reykjavik",
    "France": "Paris", "Spain": "Madrid", "Portugal": "Lisbon", "Italy": "Rome", "Greece": "Athens", "Germany": "Berlin",
    "Austria": "Vienna", "Switzerland": "Bern", "Belgium": "Brussels", "Ireland": "Dublin", "Poland": "Warsaw",
    "Hungary": "Budapest", "Romania": "Bucharest", "Bulgaria": "Sofia", "Croatia": "Zagreb", "Serbia": "Belgrade",
    "Ukraine": "Kyiv", "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Ghana": "Accra", "Morocco": "Rabat",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Nepal": "Kathmandu", "Vietnam": "Hanoi",
    "Thailand": "Bangkok", "Indonesia": "Jakarta", "Australia": "Canberra", "Canada": "Ottawa", "Mexico": "Mexico City",
    "Cuba": "Havana", "Peru": "Lima", "Chile": "Santiago", "Argentina": "Buenos Aires", "Brazil": "Brasilia",
    "Colombia": "Bogota", "Ecuador": "Quito", "Iran": "Tehran", "Iraq": "Baghdad", "Qatar": "Doha", "Jordan": "Amman",
}
ELEMENTS = {
    "hydrogen": "H", "helium": "He", "lithium": "Li", "carbon": "C", "nitrogen": "N", "oxygen": "O", "fluorine": "F",
    "neon": "Ne", "sodium": "Na", "magnesium": "Mg", "aluminium": "Al", "silicon": "Si", "phosphorus": "P",
    "sulfur": "S", "chlorine": "Cl", "argon": "Ar", "potassium": "K", "calcium": "Ca", "iron": "Fe", "nickel": "Ni",
    "copper": "Cu", "zinc": "Zn", "silver": "Ag", "tin": "Sn", "gold": "Au", "mercury": "Hg", "lead": "Pb",
}
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "horse": "foal", "sheep": "lamb", "goat": "kid", "pig": "piglet",
    "hen": "chick", "duck": "duckling", "goose": "gosling", "swan": "cygnet", "bear": "cub", "kangaroo": "joey",
    "frog": "tadpole", "deer": "fawn", "owl": "owlet", "eagle": "eaglet", "hare": "leveret",
}
OPPOSITES = {
    "hot": "cold", "big": "small", "high": "low", "fast": "slow", "old": "new", "hard": "soft", "light": "dark",
    "wet": "dry", "full": "empty", "open": "closed", "early": "late", "near": "far", "rich": "poor", "strong": "weak",
    "happy": "sad", "clean": "dirty", "loud": "quiet", "thick": "thin", "wide": "narrow", "deep": "shallow",
    "left": "right", "up": "down", "in": "out", "day": "night", "start": "end", "push": "pull", "win": "lose",
    "buy": "sell", "give": "take", "true": "false", "first": "last", "heavy": "light",
}
UNITS = [
    ("minutes", "hour", 60), ("seconds", "minute", 60), ("hours", "day", 24), ("days", "week", 7),
    ("months", "year", 12), ("days", "year", 365), ("bits", "byte", 8), ("centimetres", "metre", 100),
    ("metres", "kilometre", 1000), ("grams", "kilogram", 1000), ("years", "century", 100), ("years", "decade", 10),
    ("sides", "triangle", 3), ("sides", "square", 4), ("sides", "hexagon", 6), ("legs", "spider", 8),
    ("legs", "insect", 6), ("players", "football team", 11), ("strings", "violin", 4), ("letters", "alphabet", 26),
]
PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
            "twelfth"]
MISC = {  # question -> answer
    "What is the largest planet?": "Jupiter", "What is the largest ocean?": "Pacific",
    "What is the longest river in Africa?": "Nile", "What is the highest mountain?": "Everest",
    "What gas do plants take in?": "carbon dioxide", "What gas do we breathe to live?": "oxygen",
    "What is frozen water called?": "ice", "What do bees make?": "honey", "What star is nearest to Earth?": "Sun",
    "What is the colour of grass?": "green", "What is the colour of snow?": "white",
    "What is the colour of blood?": "red", "What do you get from mixing blue and yellow?": "green",
    "What do you get from mixing red and yellow?": "orange", "What do you get from mixing red and blue?": "purple",
    "What pumps blood through the body?": "heart", "What organ do we think with?": "brain",
    "What do caterpillars turn into?": "butterflies", "What is the unit of force?": "newton",
    "What is the unit of energy?": "joule", "What is the unit of power?": "watt",
    "What is the unit of electric current?": "ampere", "What is the unit of resistance?": "ohm",
    "What is the unit of frequency?": "hertz", "Who wrote Hamlet?": "Shakespeare",
    "Who wrote Don Quixote?": "Cervantes", "Who painted the Mona Lisa?": "Leonardo",
    "Who found the law of gravity?": "Newton", "Who found the theory of relativity?": "Einstein",
    "What is the hardest natural material?": "diamond", "What metal is liquid at room temperature?": "mercury",
    "What is the smallest prime number?": "2", "What shape has three sides?": "triangle",
    "What shape is a ball?": "sphere", "What language is spoken in Brazil?": "Portuguese",
    "What language is spoken in Austria?": "German", "What language is spoken in Mexico?": "Spanish",
}

# 90 short names that charts and word tasks use.
FRUIT = ["apple", "pear", "plum", "cherry", "lemon", "mango", "melon", "peach", "grape", "banana", "orange", "kiwi"]
ANIMALS = ["dog", "cat", "cow", "horse", "sheep", "goat", "pig", "duck", "bear", "wolf", "fox", "lion", "tiger",
           "mouse", "frog", "owl"]
CITIES = ["Oslo", "Paris", "Rome", "Lima", "Cairo", "Tokyo", "Delhi", "Berlin", "Madrid", "Kyiv", "Quito", "Accra",
          "Doha", "Hanoi", "Dublin", "Vienna"]
COUNTRIES = ["Norway", "Spain", "Italy", "Peru", "Chile", "Japan", "India", "Kenya", "Ghana", "Egypt", "Cuba", "Nepal"]
SPORTS = ["tennis", "golf", "rugby", "chess", "judo", "rowing", "hockey", "skiing"]
DRINKS = ["tea", "coffee", "milk", "juice", "water", "cocoa"]
COLOURS = ["red", "blue", "green", "yellow", "orange", "purple", "black", "brown"]
TOOLS = ["hammer", "saw", "drill", "nail", "rope", "ladder", "brush", "wrench"]
CATEGORY_GROUPS = {
    "fruit": FRUIT, "animal": ANIMALS, "city": CITIES, "country": COUNTRIES, "sport": SPORTS, "drink": DRINKS,
    "tool": TOOLS,
}
WORDS = sorted(set(FRUIT + ANIMALS + SPORTS + DRINKS + COLOURS + TOOLS + [
    "house", "table", "chair", "window", "door", "garden", "river", "stone", "cloud", "rain", "snow", "wind", "fire",
    "tree", "leaf", "flower", "grass", "bread", "cheese", "salt", "sugar", "rice", "soup", "paper", "pencil", "book",
    "clock", "lamp", "train", "boat", "plane", "wheel", "bridge", "road", "city", "village", "school", "music", "song",
    "story", "king", "queen", "star", "moon", "sun", "sea", "island", "desert", "forest", "winter", "summer", "spring",
    "autumn", "bird", "fish", "hat", "coat", "shoe", "ring", "coin", "key", "box", "bag", "cup", "plate", "spoon"]))
NAMES = ["Ana", "Ben", "Cora", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jack", "Kim", "Leo", "Mia", "Nils", "Olga",
         "Paul", "Rosa", "Sam", "Tina", "Uma", "Vera", "Will", "Yara", "Zoe"]
SERIES = ["Sales", "Visitors", "Votes", "Points", "Exports", "Orders", "Users", "Members", "Tickets", "Books", "Trees",
          "Cars", "Rainfall", "Profit", "Output", "Score", "Stock", "Demand"]
