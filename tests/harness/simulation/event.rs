//! What may happen, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The daemon's own time has come, if it is still this one.
    Turn(u64),
    /// A call comes to the remote.
    Arrive(u64),
    /// What came of it comes to the daemon.
    Reply(u64),
    /// A replica subscribes.
    Link(usize),
    /// A replica takes what is on the board.
    Take(usize),
    /// A replica opens its connection.
    Dial(usize),
    /// What a replica counted comes to the daemon.
    Report(usize),
    /// A replica starts again.
    Start(usize),
    /// Somebody calls.
    Caller,
    /// A process starts.
    Boot(u32),
    /// The clock is set right.
    ClockRight,
    /// A stranger's CA goes.
    StrangerGoes,
    /// So does a secret.
    ForeignSecretGoes,
    /// Time has passed.
    Nudge,
    /// An operator looks.
    Operator,
    /// Something goes wrong.
    Fault(Fault),
}

/// What goes wrong by itself, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Crash,
    Reboot,
    Outage,
    Suspend,
    Partition,
    Jam,
    Jump,
    Unlink,
    Restart,
    Replace,
    Stranger,
    ForeignSecret,
    ForeignRotation,
    Sabotage,
    Order,
    Drop,
    Thief,
}

impl Fault {
    pub(super) const ALL: [Self; 17] = [
        Self::Crash,
        Self::Reboot,
        Self::Outage,
        Self::Suspend,
        Self::Partition,
        Self::Jam,
        Self::Jump,
        Self::Unlink,
        Self::Restart,
        Self::Replace,
        Self::Stranger,
        Self::ForeignSecret,
        Self::ForeignRotation,
        Self::Sabotage,
        Self::Order,
        Self::Drop,
        Self::Thief,
    ];

    /// Hours between two, on average: in an ordinary life, and in a rough one.
    pub(super) fn hours(self) -> (u64, u64) {
        match self {
            Self::Crash => (72, 5),
            Self::Reboot => (480, 48),
            Self::Outage => (960, 120),
            Self::Suspend => (720, 96),
            Self::Partition => (240, 24),
            Self::Jam => (480, 12),
            Self::Jump => (480, 30),
            Self::Unlink => (48, 4),
            Self::Restart => (120, 12),
            Self::Replace => (360, 48),
            Self::Stranger => (1440, 60),
            Self::ForeignSecret | Self::Thief => (1440, 72),
            Self::ForeignRotation => (1440, 48),
            Self::Sabotage => (2400, 60),
            Self::Order => (720, 16),
            Self::Drop => (72, 6),
        }
    }
}

/// Events in their order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    serial: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse((at, self.serial, event)));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}
