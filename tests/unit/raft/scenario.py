"""Scenarios as texts: commands with what they bring about. See tests/scenarios/raft/README.md.

`python -m tests.unit.raft.scenario FILE...` writes what happens now into the files; look at the difference before
keeping it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from balancer.raft.core import Role
from balancer.raft.limits import Limits
from balancer.raft.log_entry import Entry, EntryKind, HardState, Membership, SnapshotMark
from balancer.raft.membership import decode
from balancer.raft.message import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotChunk,
    SnapshotReply,
    VoteReply,
    VoteRequest,
)
from balancer.raft.ready import ReadState, Ready
from balancer.raft.refusals import RefusedError, SafetyBrokenError
from tests.unit.raft.network import Member, Network

FOLDER = Path(__file__).resolve().parents[2] / "scenarios" / "raft"
RULE = "----"


def play(text: str) -> str:
    """The same text with what each command brings about now."""
    stage = Stage()
    return (
        "\n\n".join(
            block if block.startswith("#") else f"{command}\n{RULE}\n{stage.perform(command)}"
            for block, command in _blocks(text)
        )
        + "\n"
    )


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Blocks between empty lines: comments, or commands above a rule with their output below."""
    for block in text.strip().split("\n\n"):
        yield block, block.split(f"\n{RULE}")[0]


class Stage:
    """What the commands act on. A block may hold several commands, one per line."""

    def __init__(self) -> None:
        self.network = Network(())
        self.lines: list[str] = []
        self.names: dict[int, str] = {}  # ids of reads are random: they are shown by name

    def perform(self, block: str) -> str:
        self.lines = []
        for line in block.splitlines():
            name, *words = line.split()
            command: Callable[[list[str]], None] = getattr(self, f"do_{name.replace('-', '_')}")
            try:
                command(words)
            except RefusedError as refusal:
                self.say(f"refused: {refusal}" + (f" (leader {refusal.leader})" if refusal.leader else ""))
            except SafetyBrokenError as broken:
                self.say(f"SAFETY BROKEN: {broken}")
        return "\n".join(self.lines or ["ok"])

    def say(self, line: str) -> None:
        self.lines.append(line)

    # Commands.

    def do_members(self, words: list[str]) -> None:
        """members 1 2 3 [learners 4] [option=N ...]: begins."""
        options = dict(word.split("=") for word in words if "=" in word)
        ids = [word for word in words if "=" not in word]
        voters, learners = _split(ids, "learners")
        ticks = {name: int(options.pop(name)) for name in ("election_ticks", "heartbeat_ticks") if name in options}
        limits = Limits(**{name: int(value) for name, value in options.items()})
        self.network = Network(voters, learners, limits=limits, **ticks)

    def do_add(self, words: list[str]) -> None:
        """add 4: a member with nothing at all."""
        self.network.add(int(words[0]))

    def do_log_of(self, words: list[str]) -> None:
        """log-of 1 term 7 entries 1 1 2: begins with this term, and entries of these terms, on its disk."""
        member = self.network[int(words[0])]
        terms = enumerate(map(int, words[4:]), 1)
        member.disk.entries = [Entry(index, term, EntryKind.COMMAND, b"%d.%d" % (index, term)) for index, term in terms]
        member.disk.hard_state = HardState(int(words[2]))
        member.start()

    def do_campaign(self, words: list[str]) -> None:
        """campaign 1: its election timeout is over."""
        self.network.node(int(words[0])).campaign()

    def do_forget(self, words: list[str]) -> None:
        """forget 1 2: they know no leader any longer."""
        for word in words:
            self.network.node(int(word)).forget_leader()

    def do_propose(self, words: list[str]) -> None:
        """propose 1 a b c: three commands."""
        for data in words[1:]:
            self.network.node(int(words[0])).propose(data.encode())

    def do_membership(self, words: list[str]) -> None:
        """membership 1 voters 1 2 learners 3: proposes it."""
        voters, learners = _split(words[2:], "learners")
        self.network.node(int(words[0])).propose_membership(Membership(tuple(voters), tuple(learners)))

    def do_read(self, words: list[str]) -> None:
        """read 1 a b: asks where to read, twice, under these names."""
        for name in words[1:]:
            self.names[self.network.node(int(words[0])).read_index()] = name

    def do_transfer(self, words: list[str]) -> None:
        """transfer 1 2: from 1 to 2."""
        self.network.node(int(words[0])).transfer_leadership(int(words[1]))

    def do_tick(self, words: list[str]) -> None:
        """tick 1 [times]."""
        for _ in range(int(words[1]) if len(words) > 1 else 1):
            self.network.node(int(words[0])).tick()

    def do_pass(self, words: list[str]) -> None:
        """pass 20: this many ticks for everybody, with all at rest after each, and nothing said about it."""
        for _ in range(int(words[0])):
            for _, member in sorted(self.network.members.items()):
                member.node.tick()
            self.do_settle(["quietly"])

    def do_tick_until_campaign(self, words: list[str]) -> None:
        """tick-until-campaign 1: time passes for it alone until it wants to lead; how long is drawn."""
        node = self.network.node(int(words[0]))
        for _ in range(2 * node._core.election_ticks):
            if node.status().role is not Role.FOLLOWER:
                return
            node.tick()
        self.say("it does not campaign")

    def do_ready(self, words: list[str]) -> None:
        """ready 1: takes one Ready. What must wait for the disk waits."""
        self._take(self.network[int(words[0])])

    def do_sync(self, words: list[str]) -> None:
        """sync 1 [count]: its disk finishes its (first) writes."""
        member = self.network[int(words[0])]
        member.sync(int(words[1]) if len(words) > 1 else None)

    def do_apply(self, words: list[str]) -> None:
        """apply 1: its state machine catches up."""
        self.network[int(words[0])].apply()

    def do_work(self, words: list[str]) -> None:
        """work 1 2: Readys, disk and state machine, until nothing is left."""
        for word in words:
            self._work(self.network[int(word)])

    def do_deliver(self, words: list[str]) -> None:
        """deliver [1->2] [kind]: what is in flight arrives."""
        for message in self.network.drop(_which(words)):
            self._arrive(message)

    def do_repeat(self, words: list[str]) -> None:
        """repeat [1->2] [kind]: arrives and stays in flight."""
        for message in filter(_which(words), tuple(self.network.in_flight)):
            self._arrive(message)

    def do_drop(self, words: list[str]) -> None:
        """drop [1->2] [kind]: is lost."""
        for message in self.network.drop(_which(words)):
            self.say(f"lost {show(message, self.names)}")

    def do_settle(self, words: list[str]) -> None:
        """settle [quietly]: everybody works and everything arrives until all is at rest."""
        said, working = self.lines, True
        if words:
            self.lines = []
        while working:
            worked = [self._work(member) for _, member in sorted(self.network.members.items())]
            working = any(worked)
            for message in self.network.drop():
                working = True
                self._arrive(message)
        if words:
            self.lines = said

    def do_cut(self, words: list[str]) -> None:
        """cut 1 2: these are cut off from the others; cut 1->2: one direction of a link."""
        if "->" in words[0]:
            self.network.cut.update(tuple(map(int, word.split("->"))) for word in words)  # type: ignore[misc]
        else:
            self.network.isolate(*map(int, words))

    def do_heal(self, words: list[str]) -> None:
        """heal: all links work."""
        self.network.heal()

    def do_crash(self, words: list[str]) -> None:
        """crash 1 [records]: it starts again, with what was synced and the first of the other records."""
        self.network[int(words[0])].crash(int(words[1]) if len(words) > 1 else 0)

    def do_snapshot(self, words: list[str]) -> None:
        """snapshot 1 [padding]: a snapshot of what it applied, after which its log is compacted."""
        member = self.network[int(words[0])]
        member.state.padding = b"x" * int(words[1]) if len(words) > 1 else b""
        member.snapshot()
        member.sync()

    def do_log(self, words: list[str]) -> None:
        """log 1 2: what their logs hold."""
        for word in words:
            core = self.network.node(int(word))._core
            entries = map(core.log.entry, range(core.log.first_index, core.log.last_index + 1))
            self.say(f"{word}: {_entries(entries) or 'empty'}")

    def do_status(self, words: list[str]) -> None:
        """status [1]: who does what."""
        for id in map(int, words) if words else sorted(self.network.members):
            self.say(_status(self.network[id]))

    def do_in_flight(self, words: list[str]) -> None:
        """in-flight: what is under way."""
        for message in self.network.in_flight:
            self.say(show(message, self.names))

    # What they share.

    def _arrive(self, message: Message) -> None:
        if (message.sender, message.to) in self.network.cut:
            self.say(f"lost {show(message, self.names)}")
            return
        self.say(show(message, self.names))
        self.network.node(message.to).step(message)

    def _work(self, member: Member) -> bool:
        worked = False
        while self._take(member):
            worked = True
            member.sync()
            member.apply()
        return worked

    def _take(self, member: Member) -> bool:
        if not member.take():
            return False
        ready = member.unsynced[-1]
        if isinstance(ready, Ready):
            for line in _shown(ready, self.names):
                self.say(f"{member.id} {line}")
        return True


def _split(words: Iterable[str], separator: str) -> tuple[list[int], list[int]]:
    """The numbers before and after a word."""
    parts: tuple[list[int], list[int]] = ([], [])
    which = 0
    for word in words:
        if word == separator:
            which = 1
        else:
            parts[which].append(int(word))
    return parts


def _which(words: list[str]) -> Callable[[Message], bool]:
    """Messages on this link, or of this kind (as they are shown)."""
    links = {tuple(map(int, word.split("->"))) for word in words if "->" in word}
    kinds = {word for word in words if "->" not in word}

    def chosen(message: Message) -> bool:
        link = (message.sender, message.to)
        return (not links or link in links) and (not kinds or show(message, {}).split()[1] in kinds)

    return chosen


def _status(member: Member) -> str:
    status = member.node.status()
    line = f"{status.id}: {status.role.value} term={status.term} leader={status.leader or '-'}"
    line += f" last={status.last_index} commit={status.commit} applied={status.applied}"
    if status.transfer_to:
        line += f" transfer_to={status.transfer_to}"
    peers = [f"{peer.id} {peer.pace} match={peer.match} next={peer.next}" for peer in status.peers]
    return line + "".join(f"\n   {peer}" for peer in peers)


def _shown(ready: Ready, names: dict[int, str]) -> Iterator[str]:
    """What a Ready wants, but for its messages: those are shown when they arrive."""
    if ready.soft_state is not None:
        yield "leads" if ready.soft_state.is_leader else f"follows {ready.soft_state.leader or 'nobody'}"
    if ready.snapshot is not None:
        yield f"installs {_mark(ready.snapshot)}"
    if ready.entries:
        yield f"writes {_entries(ready.entries)}"
    if ready.hard_state is not None and ready.must_sync and not ready.entries:
        yield f"writes term={ready.hard_state.term} vote={ready.hard_state.vote or '-'}"
    if ready.committed:
        yield f"applies {_entries(ready.committed)}"
    for read in ready.reads:
        yield f"may read {_read(read, names)}"
    for number in ready.refused_reads:
        yield f"may not read {names.get(number, '?')}"


def _read(read: ReadState, names: dict[int, str]) -> str:
    return f"{names.get(read.read_id, '?')} at {read.index}"


def _mark(mark: SnapshotMark) -> str:
    return f"snapshot {mark.index}/{mark.term} of {_membership(mark.membership)}"


def _membership(membership: Membership) -> str:
    learners = f" learners {' '.join(map(str, membership.learners))}" if membership.learners else ""
    return f"voters {' '.join(map(str, membership.voters))}{learners}"


def _entries(entries: Iterable[Entry]) -> str:
    return " ".join(map(_entry, entries))


def _entry(entry: Entry) -> str:
    data = entry.data.decode("latin-1") if entry.kind is EntryKind.COMMAND else _membership(decode(entry.data))
    return f"{entry.index}/{entry.term}" + (f"[{data}]" if data else "")


def show(message: Message, names: dict[int, str]) -> str:
    """A message as a line: link, kind, term, and what it says."""
    head = f"{message.sender}->{message.to} "
    term = f" term={message.term}"
    match message:
        case VoteRequest():
            kind = "pre-vote?" if message.pre else "vote?"
            return (
                head + kind + term + f" last={message.last_index}/{message.last_term}" + " transfer" * message.transfer
            )
        case VoteReply():
            return (
                head + ("pre-vote" if message.pre else "vote") + term + (" granted" if message.granted else " refused")
            )
        case Append():
            line = f" previous={message.previous_index}/{message.previous_term} commit={message.commit}"
            return head + "append" + term + line + (f" {_entries(message.entries)}" if message.entries else "")
        case AppendReply(rejected=True):
            return head + f"appended{term} rejected {message.index}, try {message.hint_index}/{message.hint_term}"
        case AppendReply():
            return head + f"appended{term} {message.index}"
        case Heartbeat():
            return head + f"beat{term} commit={message.commit} read={message.read_id}"
        case HeartbeatReply():
            return head + f"beaten{term} read={message.read_id}"
        case SnapshotChunk():
            end = message.offset + len(message.data)
            return head + f"chunk{term} {_mark(message.mark)} bytes {message.offset}-{end} of {message.size}"
        case SnapshotReply():
            word = " done" if message.done else " refused" if message.refused else ""
            return head + f"got{term} snapshot {message.index}/{message.snapshot_term} up to {message.offset}{word}"
        case ReadIndexRequest():
            return head + f"read?{term} {names.get(message.read_id, '?')}"
        case ReadIndexReply():
            return head + f"read{term} {names.get(message.read_id, '?')} at {message.index}"
    return head + f"timeout-now{term}"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.write_text(play(path.read_text(encoding="utf-8")), encoding="utf-8")
