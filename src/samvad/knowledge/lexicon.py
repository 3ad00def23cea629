"""A small dictionary of everyday Hindi and English, for questions in romanised Hindi.

«ghar loan byaj dar» asks for what an English page calls a home loan's interest rate, and a Hindi page गृह ऋण. A word
counts as its translations, for less than itself. Words of offices, banks, health, farms, schools and travel; names and
rare words are not here, and need none.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final

from samvad.knowledge.romanised import sound_key
from samvad.knowledge.words import term_of

_PAIRS: Final = """
ऋण कर्ज उधार: loan credit debt; ब्याज सूद: interest; दर: rate; किस्त: instalment installment; बैंक: bank
खाता खाते: account; बचत: savings saving; जमा: deposit; निकासी: withdrawal; राशि रकम: amount
पैसा पैसे धन: money; मुफ्त निःशुल्क: free; शुल्क फीस: fee fees charge; दाम कीमत मूल्य: price cost
छूट: discount; जुर्माना दंड: penalty fine; कर: tax; बीमा: insurance; मुआवजा: compensation
भुगतान: payment pay; वेतन तनख्वाह: salary; आय आमदनी: income; खर्च: expense cost; बिल: bill
घर मकान गृह: home house; जमीन भूमि: land; संपत्ति: property; किराया: rent; दुकान: shop
गाड़ी वाहन: vehicle car; सोना: gold; गहना गहने जेवर: jewellery; गिरवी: pledge pledged mortgage
शाखा: branch; काम नौकरी रोजगार: work job employment; कागज दस्तावेज: papers document
प्रमाण: proof certificate; पत्र: letter; प्रमाणपत्र: certificate; पहचान: identity
आवेदन अर्जी: application apply; पंजीकरण: registration register; सत्यापन: verification
हस्ताक्षर: signature; नाम: name; पता: address; गवाह: witness; शादी विवाह: marriage wedding; जन्म: birth
मृत्यु मौत: death; उम्र आयु: age; तारीख: date; बच्चा बच्चे शिशु: child children baby; लड़की: girl
लड़का: boy; औरत महिला: woman women; आदमी पुरुष: man; परिवार: family; माता मां: mother; पिता बाप: father
पति: husband; पत्नी: wife; बुजुर्ग वृद्ध बूढ़ा: elderly old senior; नागरिक: citizen; वरिष्ठ: senior
गरीब: poor; किसान: farmer; मजदूर: labourer worker; व्यापारी: trader merchant; विद्यार्थी छात्र: student
शिक्षक अध्यापक: teacher; बिजली: electricity power; पानी जल: water; नल: tap; गंदा: dirty
शिकायत: complaint complain; कूड़ा कचरा: garbage waste; गीला: wet; सूखा: dry drought
साफ सफाई: clean cleaning; सड़क: road; पुल: bridge; नदी: river; अस्पताल चिकित्सालय: hospital
डॉक्टर चिकित्सक: doctor; मरीज रोगी: patient; बीमारी रोग: disease illness; दवा दवाई: medicine
बुखार ज्वर: fever; खून रक्त: blood; जांच परीक्षण: test check; टीका टीकाकरण: vaccine vaccination
मच्छर: mosquito; मधुमेह: diabetes; शर्करा: sugar; दर्द: pain; आंख नेत्र: eye; दांत: tooth teeth
दिल हृदय: heart; हाथ: hand; पैर: foot leg; सिर: head; खाना भोजन: food eat meal; दूध: milk; चाय: tea
चीनी शक्कर: sugar; नमक: salt; चावल: rice; गेहूं: wheat; दाल: lentil; सब्जी: vegetable; फल: fruit
तेल: oil; घी: ghee butter; अदरक: ginger; इलायची: cardamom; हल्दी: turmeric; मसाला: spice spiced
मांस: meat; अंडा: egg; खेत खेती: field farm farming; फसल: crop; बीज: seed; खाद उर्वरक: fertilizer manure
सिंचाई: irrigation irrigate; मिट्टी: soil; बुवाई: sowing sow; कटाई: harvest; बारिश वर्षा: rain
बाढ़: flood; ओला: hail; नुकसान हानि: loss damage; गाय: cow; पशु मवेशी: cattle animal
विद्यालय पाठशाला: school; कक्षा: class; परीक्षा इम्तिहान: examination exam test; परिणाम नतीजा: result
प्रवेश दाखिला: admission entry; छात्रवृत्ति: scholarship; छात्रावास: hostel
पढ़ाई शिक्षा: education study; किताब पुस्तक: book; पुस्तकालय: library; अंक: marks; समय वक्त: time hours
दिन: day; सुबह: morning; शाम: evening; रात: night; सप्ताह हफ्ता: week; महीना मास: month; साल वर्ष: year
आज: today; कल: tomorrow yesterday; देर विलंब: late delay; जल्दी तुरंत: quickly once
रेल ट्रेन: train railway; टिकट: ticket; बस: bus; हवाई विमान: air plane flight
यात्रा सफर: travel journey; रद्द: cancel cancelling; वापस वापसी: return refund back
प्रतीक्षा: waiting wait; सूची: list; सीट: seat; बंद: close closed closing; खुला खोलना: open opens
नया नई: new; पुराना: old; बड़ा: big large; छोटा: small; अच्छा: good; सस्ता: cheap; महंगा: expensive
आधा: half; पूरा: full; पहला पहली: first; आखिरी अंतिम: last; खोया गुम: lost; चोरी: theft stolen
सुरक्षा: security safety; बचाव: prevention protection; पुलिस: police; अदालत न्यायालय: court; कानून: law
वकील: lawyer; सरकार शासन: government; मंत्री: minister; चुनाव: election; मतदान: vote voting; सेना: army
युद्ध लड़ाई: war battle; शांति: peace; राजा: king; रानी: queen; देश: country nation; राज्य: state
शहर नगर: city town; गांव: village; जिला: district; निगम: municipality corporation; डाक: post mail
फोन दूरभाष: phone telephone; अखबार समाचार: news newspaper; खेल: game sport; गाना गीत: song; संगीत: music
नृत्य: dance; भाषा: language; लेखक: writer author; कवि: poet; इतिहास: history; विज्ञान: science
वैज्ञानिक: scientist; सूर्य सूरज: sun; चांद चंद्रमा: moon; पृथ्वी धरती: earth; समुद्र: sea ocean
पहाड़ पर्वत: mountain; जंगल वन: forest; पेड़ वृक्ष: tree; फूल: flower; आग: fire; हवा वायु: air wind
मंदिर: temple; त्योहार पर्व: festival; रंग: colour color; पेंशन: pension; दान: donation donate
रक्तदान: blood donation; शिविर: camp; सहकारी समिति: cooperative society; सेवा: service
योजना: scheme plan; मदद सहायता: help assistance; सवाल प्रश्न: question; सदस्य: member; बदलना: change
मिलना: meet visit; खरीदना: buy purchase; बेचना: sell; देना: give; लेना: take borrow; बनाना: make build
चलाना: drive driving run; सीखना: learn learner; जोड़ना: add; तोड़ना तुड़वाना: break breaking; रखना: keep
भेजना: send transfer
"""
_SHARE: Final = 0.5


@functools.cache
def _meanings() -> tuple[Mapping[str, frozenset[str]], Mapping[str, frozenset[str]]]:
    """Terms by what a Hindi word sounds like, and by an English term: all words of the same line of the dictionary."""
    by_sound: dict[str, set[str]] = {}
    by_english: dict[str, set[str]] = {}
    for line in _PAIRS.replace("\n", ";").split(";"):
        hindi, _, english = line.partition(":")
        spoken, written = hindi.split(), english.split()
        terms = {term for word in (*spoken, *written) if (term := term_of(word))}
        for word in spoken:
            if key := sound_key(word):
                by_sound.setdefault(key, set()).update(terms)
        for word in written:
            by_english.setdefault(term_of(word), set()).update(map(term_of, spoken))
    return (
        {key: frozenset(found) for key, found in by_sound.items()},
        {term: frozenset(found - {""}) for term, found in by_english.items()},
    )


def translations(word: str) -> dict[str, float]:
    """The terms that a word of romanised Hindi may as well be written as, each with what it counts for."""
    by_sound, by_english = _meanings()
    found = by_sound.get(sound_key(word)) or by_english.get(term_of(word)) or frozenset()
    return dict.fromkeys(found, _SHARE)
