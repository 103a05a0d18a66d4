"""Usual names of columns, formats of dates and words of feedback, for guesses about a log."""

from __future__ import annotations

from emorec.data.feedback import Feedback

__all__ = [
    "COUNTS",
    "FEEDBACK",
    "FORMATS",
    "ITEMS",
    "RATINGS",
    "TIMES",
    "USERS",
    "WORDS",
]

# Usual names of columns, in lower case and without what is neither letter nor digit; the first
# one that a log has is taken.
USERS = (
    "userid user uid customerid customer clientid client memberid member reviewerid visitorid "
    "accountid account personid person username profile kundenid kundennr kundennummer kunde "
    "nutzerid nutzer benutzer utilisateur usuario sessionid session"
).split()
ITEMS = (
    "itemid item iid movieid productid product stockcode parentasin asin sku articleid article "
    "bookid isbn songid trackid videoid artistid gameid businessid song track movie book video "
    "artist game film artikelid artikelnr artikelnummer artikel produktid produkt titel title"
).split()
TIMES = (
    "timestamp unixreviewtime unixtime time timems eventtime datetime createdat playedat ts date "
    "reviewtime zeitstempel zeitpunkt zeit datum fecha"
).split()
RATINGS = (
    "rating ratings stars score overall grade bewertung sterne note like liked islike isliked "
    "thumbs thumb vote preference event eventtype action behavior behaviour interaction reaction"
).split()
COUNTS = (
    "plays playcount listens listencount clicks click clicked views viewed purchases purchased "
    "watched played count quantity weight anzahl menge"
).split()
FEEDBACK = ["feedback", "kind"]

FORMATS = (
    "%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S", "%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M",
    "%d.%m.%Y", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d/%m/%Y", "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M", "%m/%d/%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m %d, %Y",
)  # fmt: skip
WORDS: dict[Feedback, list[str]] = {
    Feedback.EXPLICIT_POSITIVE: (
        "like liked love loved favorite favourite up thumbs_up thumbsup follow share save good "
        "positive yes"
    ).split(),
    Feedback.IMPLICIT_POSITIVE: (
        "play played listen listened click clicked view viewed watch watched purchase purchased "
        "buy bought order transaction cart add_to_cart addtocart pv fav"
    ).split(),
    Feedback.IMPLICIT_NEGATIVE: "skip skipped ignore ignored remove_from_cart".split(),
    Feedback.EXPLICIT_NEGATIVE: (
        "dislike disliked hate hated down thumbs_down thumbsdown block report bad negative no"
    ).split(),
}
