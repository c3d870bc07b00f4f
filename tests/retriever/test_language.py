from concurrent.futures import ThreadPoolExecutor

import pytest

from retriever.language import identifier

SENTENCES = {
    "am": "ባሕሩ ሲሞቅ የኮራል ሪፍ ነጭ ይሆናል።",
    "ar": "تبيض الشعاب المرجانية عندما يسخن البحر",
    "de": "Das Riff wird weiß, wenn das Meer warm ist.",
    "el": "Ο κοραλλιογενής ύφαλος ασπρίζει όταν η θάλασσα είναι ζεστή.",
    "en": "The coral reef turns white when the sea is warm.",
    "es": "El arrecife de coral se vuelve blanco cuando el mar está caliente.",
    "fi": "Koralliriutta muuttuu valkoiseksi, kun meri on lämmin.",
    "fr": "Le récif corallien blanchit quand la mer est chaude.",
    "he": "שונית האלמוגים מלבינה כשהים חם",
    "hi": "समुद्र गर्म होने पर प्रवाल भित्ति सफेद हो जाती है।",
    "ja": "海が暖かくなるとサンゴ礁は白くなります。",
    "ka": "მარჯნის რიფი თეთრდება, როცა ზღვა თბილია.",
    "km": "ផ្កាថ្មប្រែជាពណ៌សនៅពេលទឹកសមុទ្រក្តៅ",
    "ko": "바다가 따뜻해지면 산호초가 하얗게 변한다.",
    "no": "Korallrevet blir hvitt når havet er varmt.",
    "pl": "Rafa koralowa bieleje, gdy morze jest ciepłe.",
    "ru": "Коралловый риф белеет, когда море тёплое.",
    "sw": "Mbweha anaruka juu ya uzio wa bustani.",
    "ta": "கடல் வெப்பமடையும் போது பவளப்பாறை வெண்மையாகிறது.",
    "th": "แนวปะการังจะกลายเป็นสีขาวเมื่อน้ำทะเลอุ่น",
    "tr": "Deniz ısındığında mercan resifi beyaza döner.",
    "vi": "Rạn san hô chuyển sang màu trắng khi biển ấm lên.",
    "zh": "这座城市的人口在过去二十年里增长了三倍。",
}


def test_a_sentence_of_each_language():
    assert identifier().identify(list(SENTENCES.values())) == list(SENTENCES)


@pytest.mark.parametrize("text", ["", " \n", "123 456", "१२३", "🪸🐟 👍🏽", "...!?", "\u0301", "x"], ids=ascii)
def test_there_is_no_telling(text):
    assert identifier().identify([text]) == [""]


def test_white_space_and_case_do_not_matter():
    german = "  DAS RIFF WIRD WEISS,\n\n\twenn das Meer\u2028warm ist.  "
    assert identifier().identify([german]) == ["de"]


def test_only_the_beginning_of_a_long_text_is_read():
    assert identifier().identify([SENTENCES["de"] * 30 + SENTENCES["ru"] * 10_000]) == ["de"]


def test_lists_in_lists_out():
    assert identifier().identify([]) == []
    assert identifier() is identifier()


def test_eight_threads():
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: identifier().identify(list(SENTENCES.values())), range(16)))
    assert found == [list(SENTENCES)] * 16
