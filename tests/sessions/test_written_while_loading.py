"""A record that another replica writes while it is being loaded is not left as it was."""

from __future__ import annotations

from typing import Any

import pytest

from samvad.records import UserKey
from samvad.runtime import Options, Samvad
from samvad.stores.memory import MemoryStore
from samvad.types import Profile

pytestmark = pytest.mark.anyio
ASHA = UserKey("default", "asha")


class SlowAnswer(MemoryStore):
    """Its first answer to `load` is old when it arrives: `meanwhile` comes between."""

    meanwhile: Any = None

    async def load(self, user: UserKey, **bounds: int) -> Any:
        loaded = await super().load(user, **bounds)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return loaded


def said(profile: Profile) -> list[str]:
    return [message.content for message in profile.conversation_history]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("how", ["outdated", "invalidate"])
async def test_told_while_it_is_loaded(how: str, known: bool) -> None:
    """The notice comes before the load's answer, which does not hold what it tells of: it is loaded again."""
    store = SlowAnswer()
    options = Options(durability="store")
    async with Samvad(store, options=options) as here, Samvad(store, options=options) as there:
        lanes = here.core.lanes
        if known:
            await here.append_to_user_history("asha", "user", "before")
            await there.append_to_user_history("asha", "user", "then")
            lanes.doubt(ASHA)
            expected = ["before", "then", "meanwhile"]
        else:
            expected = ["meanwhile"]

        async def meanwhile() -> None:
            await there.append_to_user_history("asha", "user", "meanwhile")
            if how == "invalidate":
                lanes.invalidate(ASHA)
            else:
                lanes.outdated(ASHA, (await there.read_user("asha")).version)

        store.meanwhile = meanwhile
        assert said(await here.get_user_profile("asha")) == expected


async def test_told_of_what_the_load_holds() -> None:
    """A notice of the very version that is being loaded costs no second load: at Firestore each is four reads."""
    store = SlowAnswer()
    options = Options(durability="store")
    async with Samvad(store, options=options) as here, Samvad(store, options=options) as there:
        await there.append_to_user_history("asha", "user", "before")
        version = (await there.read_user("asha")).version

        async def meanwhile() -> None:
            here.core.lanes.outdated(ASHA, version)

        store.meanwhile = meanwhile
        assert said(await here.get_user_profile("asha")) == ["before"]
        assert here.core.lanes.loads == 1
