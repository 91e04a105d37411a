"""The demo's real input: three tenants and the sentences each wants to hear; no code but the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence to be spoken."""

    voice: str
    text: str
    fail_times: int = 0  #: the model fails so many first attempts on purpose

    def payload(self) -> dict[str, Any]:
        """The `requestPayload` of its task."""
        fails = {"fail_times": self.fail_times} if self.fail_times else {}
        return {"text": self.text, "voice": self.voice, "speed": 160, **fails}


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant, what its model takes at once, and its sentences."""

    tenant_id: int
    name: str
    max_concurrency: int
    lines: tuple[Line, ...]


TENANTS = (
    Tenant(
        1,
        "lighthouse",
        1,
        (
            Line("en", "The lamp was lit at dusk, and the fog came in to listen."),
            Line("en", "One boat at a time may pass the narrow gate.", fail_times=2),
            Line("fr", "Le phare ne dort jamais, mais il cligne des yeux."),
            Line("es", "Quien guarda la luz no pregunta de quién es el barco."),
            Line("it", "Il mare porta via i nomi e riporta le canzoni."),
            Line("en", "By morning every ship was home, and the keeper slept."),
        ),
    ),
    Tenant(
        2,
        "orchard",
        2,
        (
            Line("en", "A fox counted the apples and forgot to eat one."),
            Line("de", "Der Igel trug einen Apfel und fragte niemanden nach dem Weg."),
            Line("de", "Wer zwei Körbe zugleich füllt, braucht zwei Hände."),
            Line("nl", "De egel loopt langzaam, maar hij komt altijd thuis."),
            Line("pl", "Stara jabłoń pamięta każdą zimę."),
            Line("sv", "Räven väntade tills päronen föll av sig själva."),
            Line("en", "The wind asked for a pear, and the tree gave it two."),
            Line("fr", "Une pomme tombée nourrit encore la grive."),
        ),
    ),
    Tenant(
        3,
        "library",
        3,
        (
            Line("la", "Liber clausus tacet, apertus docet."),
            Line("en", "Three readers shared one table and read three different books."),
            Line("es", "El ratón de la biblioteca prefería los mapas."),
            Line("it", "Chi legge piano arriva comunque all'ultima pagina."),
            Line("pt", "O gato dormia na estante das viagens."),
            Line("de", "Auf der letzten Seite begann die Geschichte von vorn."),
            Line("fi", "Hiljaisuus on kirjaston vanhin lukija."),
            Line("fr", "Le marque-page connaît la moitié de toutes les histoires."),
            Line("eo", "Vortoj vojaĝas pli malproksimen ol ŝipoj."),
            Line("en", "The last lamp went out, and the books went on talking."),
        ),
    ),
)
