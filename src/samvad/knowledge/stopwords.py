"""The commonest words of English and Hindi, normalised: they say nothing of what a text is about."""

from __future__ import annotations

from typing import Final

_ENGLISH: Final = """
a about above after again all also am an and any are as at be because been before being below between both but by
can could did do does doing down during each few for from further had has have having he her here hers him his how i
if in into is it its itself just me more most my no nor not of off on once only or other our ours out over own s same
she should so some such t than that the their theirs them then there these they this those through to too under until
up very was we were what when where which while who whom whose why will with would you your yours
"""
_HINDI: Final = """
अथवा अपना अपनी अपने अभी आदि आप इत्यादि इन इनका इनकी इनके इन्हें इन्हों इस इसका इसकी इसके इसमें इसलिए इसी इसे उन उनका उनकी
उनके उनको उन्हें उन्हों उस उसका उसकी उसके उसमें उसी उसे एक एवं ऐसा ऐसी ऐसे और कब कर करता करते करना करने करें करती कहते कहा का काफी
कि किया किस किसका किसकी किसके किसने किसी किसे की कितना कितनी कितने कुछ के को कोई कौन कौनसा कौनसी कौनसे क्या क्यों गई गए गया गये
जब जहां जा जाता जाती जाते जाना जिन जिस जिसका जिसकी जिसके जिसमें जिसे जैसा जैसे जो तक तब तरह तो था थी थीं थे दी दे द्वारा न
नहीं ना ने पर परंतु फिर बनी बहुत बाद भी मगर मेरा मेरी मेरे में मैं यदि यह यहां यही या ये रखें रहा रही रहे लिए लिये ले लेकिन व वगैरह
वह वहां वही वाला वाली वाले वे सकता सकती सकते सब सभी साथ से सो हम हमारा हमारी हमारे ही हुआ हुई हुए हूं है हैं हो होगा होगी होता होती
होते होना होने कहां कैसे कैसा कैसी
"""
ENGLISH: Final = frozenset(_ENGLISH.split())
HINDI: Final = frozenset(_HINDI.split())
STOP_WORDS: Final = ENGLISH | HINDI
