//! The stack machine that a pickle is a program of, with every instruction that could run code
//! replaced by a refusal.

use std::collections::HashMap;
use std::io::Read;

use super::Dialect;
use super::arena::{Arena, Call, LongText, Node};
use super::globals::{Global, full_name, resolve};
use super::input::{Fault, Input};
use super::text::{raw_unicode, unescape};
use super::value::ItemId;

/// Texts of this length are checked only where they are used: protocol 2 stores arrays in texts.
const LONG_TEXT: usize = 4096;

/// Characters of a key that a message shows.
const MAX_SHOWN: usize = 80;

/// Reads one pickle.
pub(super) struct Machine<R> {
    input: Input<R>,
    arena: Arena,
    stack: Vec<ItemId>,
    /// Lengths of the stack at each MARK.
    marks: Vec<usize>,
    memo: Memo,
    dialect: Dialect,
}

impl<R: Read> Machine<R> {
    pub(super) fn new(reader: R, len: u64, dialect: Dialect) -> Self {
        Self {
            input: Input::new(reader, len),
            arena: Arena::new(len),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
            dialect,
        }
    }

    /// Reads up to STOP and returns all nodes, the root, and the bytes read.
    pub(super) fn run(mut self) -> Result<(Arena, ItemId, u64), Fault> {
        loop {
            let code = self.input.opcode()?;
            if code == b'.' {
                let root = self.pop()?;
                return Ok((self.arena, root, self.input.at()));
            }
            self.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            // Values of fixed size.
            b'N' => self.stack.push(Arena::none()),
            0x88 => self.stack.push(Arena::truth(true)),
            0x89 => self.stack.push(Arena::truth(false)),
            b'K' => {
                let [byte] = self.input.array::<1>()?;
                self.stack.push(Arena::byte_int(byte));
            }
            b'M' => {
                let word = u16::from_le_bytes(self.input.array::<2>()?);
                self.add_int(i64::from(word))?;
            }
            b'J' => {
                let word = i32::from_le_bytes(self.input.array::<4>()?);
                self.add_int(i64::from(word))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.input.array::<8>()?);
                self.add(Node::Float(value))?;
            }
            // Integers of any size.
            0x8a => {
                let len = self.length_1()?;
                self.add_long(len)?;
            }
            0x8b => {
                let len = self.length_i32()?;
                self.add_long(len)?;
            }
            // Texts and bytes.
            0x8c => {
                let len = self.length_1()?;
                self.add_text(len)?;
            }
            b'X' => {
                let len = self.length_4()?;
                self.add_text(len)?;
            }
            0x8d => {
                let len = self.length_8()?;
                self.add_text(len)?;
            }
            b'U' => {
                let len = self.length_1()?;
                let bytes = self.input.block(len)?;
                self.add(Node::ByteString(bytes))?;
            }
            b'T' => {
                let len = self.length_i32()?;
                let bytes = self.input.block(len)?;
                self.add(Node::ByteString(bytes))?;
            }
            b'C' => {
                let len = self.length_1()?;
                self.add_bytes(len)?;
            }
            b'B' => {
                let len = self.length_4()?;
                self.add_bytes(len)?;
            }
            0x8e | 0x96 => {
                let len = self.length_8()?;
                self.add_bytes(len)?;
            }
            // Lines of protocol 0.
            b'I' | b'L' => self.add_written_int(code)?,
            b'F' => {
                let line = self.input.line()?;
                let text = std::str::from_utf8(line.trim_ascii()).unwrap_or_default();
                match text.parse::<f64>() {
                    Ok(value) => self.add(Node::Float(value))?,
                    Err(_) => return Err(self.input.opcode_fault("needs a number")),
                }
            }
            b'S' => {
                let line = self.input.line()?;
                match unescape(line) {
                    Ok(bytes) => self.add(Node::ByteString(bytes))?,
                    Err(reason) => return Err(self.input.opcode_fault(&reason)),
                }
            }
            b'V' => {
                let line = self.input.line()?;
                match raw_unicode(&line) {
                    Ok(text) => self.add(Node::Text(text))?,
                    Err(reason) => return Err(self.input.opcode_fault(&reason)),
                }
            }
            // Containers.
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.stack.push(Arena::empty_tuple()),
            b']' => self.add(Node::List(Vec::new()))?,
            b'}' => self.add(Node::Dict(Vec::new()))?,
            0x8f => self.add(Node::Set(Vec::new()))?,
            b't' => {
                let members = self.above_mark()?;
                self.add(Node::Tuple(members))?;
            }
            b'l' => {
                let members = self.above_mark()?;
                self.add(Node::List(members))?;
            }
            0x91 => {
                let members = self.above_mark()?;
                self.add(Node::Set(members))?;
            }
            b'd' => {
                let members = self.above_mark()?;
                self.add(Node::Dict(Vec::new()))?;
                let target = self.top()?;
                let done = self.arena.extend_dict(target, &members);
                done.map_err(|reason| self.input.opcode_fault(&reason))?;
            }
            0x85 => self.add_tuple(1)?,
            0x86 => self.add_tuple(2)?,
            0x87 => self.add_tuple(3)?,
            b'a' => {
                let member = self.pop()?;
                let target = self.top()?;
                let done = self.arena.extend_list(target, &[member]);
                done.map_err(|reason| self.input.opcode_fault(&reason))?;
            }
            b'e' => {
                let members = self.above_mark()?;
                let target = self.top()?;
                let done = self.arena.extend_list(target, &members);
                done.map_err(|reason| self.input.opcode_fault(&reason))?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                let target = self.top()?;
                let done = self.arena.extend_dict(target, &[key, value]);
                done.map_err(|reason| self.input.opcode_fault(&reason))?;
            }
            b'u' => {
                let members = self.above_mark()?;
                let target = self.top()?;
                let done = self.arena.extend_dict(target, &members);
                done.map_err(|reason| self.input.opcode_fault(&reason))?;
            }
            0x90 => {
                let members = self.above_mark()?;
                let target = self.top()?;
                let done = self.arena.extend_set(target, &members);
                done.map_err(|reason| self.input.opcode_fault(&reason))?;
            }
            // The stack and the memo.
            b'0' => {
                // Also takes back a MARK that nothing lies on.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let id = self.top()?;
                self.stack.push(id);
            }
            b'p' => {
                let index = self.written_index()?;
                self.remember(index)?;
            }
            b'q' => {
                let index = self.length_1()?;
                self.remember(index)?;
            }
            b'r' => {
                let index = self.length_4()?;
                self.remember(index)?;
            }
            0x94 => {
                let index = self.memo.count;
                self.remember(index)?;
            }
            b'g' => {
                let index = self.written_index()?;
                self.recall(index)?;
            }
            b'h' => {
                let index = self.length_1()?;
                self.recall(index)?;
            }
            b'j' => {
                let index = self.length_4()?;
                self.recall(index)?;
            }
            // The protocol.
            0x80 => {
                let [protocol] = self.input.array::<1>()?;
                if protocol > 5 {
                    let reason = format!("protocol {protocol} is unknown; 0 to 5 are read");
                    return Err(self.input.fault(reason));
                }
            }
            0x95 => {
                let len = self.length_8()?;
                self.input.check_frame(len)?;
            }
            _ => return self.object_step(code),
        }
        Ok(())
    }

    /// The instructions that name, make or change objects.
    fn object_step(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            b'c' => {
                let (module, name) = self.name_lines()?;
                self.add_global(&module, &name)
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                let names = (self.arena.text(module), self.arena.text(name));
                let (Some(module), Some(name)) = names else {
                    return Err(self.input.opcode_fault("needs two texts"));
                };
                // A dot would walk through attributes to anything.
                if name.contains('.') {
                    let reason = format!(
                        "names `{}`, an attribute of an attribute, which is never allowed; \
                         nothing was executed, and the file should not be trusted",
                        full_name(module, name)
                    );
                    return Err(self.input.fault(reason));
                }
                let found = resolve(module, name, self.dialect);
                self.add_resolved(found)
            }
            b'R' => self.reduce(),
            b'b' => self.build(),
            0x81 => {
                let arguments = self.pop()?;
                let class = self.pop()?;
                self.new_object(class, arguments)
            }
            0x92 => {
                let keywords = self.pop()?;
                let arguments = self.pop()?;
                let class = self.pop()?;
                let mut members = self.arena.members(arguments).to_vec();
                members.push(keywords);
                let cost = members.len().saturating_mul(size_of::<ItemId>());
                let charged = self.arena.charge(cost);
                charged.map_err(|reason| self.input.opcode_fault(&reason))?;
                let arguments = self.node(Node::Tuple(members))?;
                self.new_object(class, arguments)
            }
            b'i' => {
                let (module, name) = self.name_lines()?;
                let reason = format!(
                    "would make an object of `{}`, which is never allowed; nothing was executed, \
                     and the file should not be trusted",
                    full_name(&module, &name)
                );
                Err(self.input.opcode_fault(&reason))
            }
            b'o' => {
                let members = self.above_mark()?;
                let name = members.first().map_or("nothing", |&id| self.class_name(id));
                let reason = format!(
                    "would make an object of `{name:.120}`, which is never allowed; nothing was \
                     executed"
                );
                Err(self.input.opcode_fault(&reason))
            }
            0x82..=0x84 => {
                let number = match code {
                    0x82 => self.length_1()?,
                    0x83 => u64::from(u16::from_le_bytes(self.input.array::<2>()?)),
                    _ => self.length_4()?,
                };
                let reason = format!(
                    "uses entry {number} of Python's extension registry, which is not in the file"
                );
                Err(self.input.opcode_fault(&reason))
            }
            b'P' => {
                let line = self.input.line()?;
                let id = self.node(Node::ByteString(line))?;
                self.add_persistent(id)
            }
            b'Q' => {
                let id = self.pop()?;
                self.add_persistent(id)
            }
            0x97 | 0x98 => {
                let reason = "needs a buffer that was stored outside the file";
                Err(self.input.opcode_fault(reason))
            }
            _ => {
                let reason = format!("unknown opcode {code:#04x}");
                Err(self.input.fault(reason))
            }
        }
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        if !matches!(self.arena.node(arguments), Node::Tuple(_)) {
            let kind = self.arena.node(arguments).kind();
            let reason = format!("needs a tuple of arguments, not a {kind}");
            return Err(self.input.opcode_fault(&reason));
        }
        match self.arena.node(function) {
            Node::Callable(callable) => {
                let callable = *callable;
                match self.arena.call(callable, arguments) {
                    Ok(id) => {
                        self.stack.push(id);
                        Ok(())
                    }
                    Err(reason) => Err(self.item_fault(self.stack.len(), &reason)),
                }
            }
            Node::Symbol(_) => self.add_call(function, arguments),
            other => {
                let reason = format!("calls a {}, which is no function", other.kind());
                Err(self.input.opcode_fault(&reason))
            }
        }
    }

    fn build(&mut self) -> Result<(), Fault> {
        let state = self.pop()?;
        let target = self.top()?;
        let done = match self.arena.node(target) {
            Node::Dtype(_) => self.arena.build_dtype(target, state),
            Node::Unbuilt | Node::Pending(_) | Node::Objects(_) => {
                self.arena.build_array(target, state)
            }
            Node::Call(_) => self.arena.build_call(target, state),
            // PyTorch gives an OrderedDict the versions of modules as an attribute; the items of a
            // dict do not depend on it.
            Node::Dict(_) if self.dialect == Dialect::Torch => Ok(()),
            other => Err(format!("gives attributes to a {}", other.kind())),
        };
        done.map_err(|reason| self.item_fault(self.stack.len().saturating_sub(1), &reason))
    }

    /// What NEWOBJ would make.
    fn new_object(&mut self, class: ItemId, arguments: ItemId) -> Result<(), Fault> {
        let is_opaque = matches!(self.arena.node(class), Node::Symbol(_))
            && matches!(self.arena.node(arguments), Node::Tuple(_));
        if is_opaque {
            return self.add_call(class, arguments);
        }
        let reason = format!(
            "would make an object of `{:.120}`, which is not allowed; nothing was executed",
            self.class_name(class)
        );
        Err(self.input.opcode_fault(&reason))
    }

    fn class_name(&self, id: ItemId) -> &str {
        match self.arena.node(id) {
            Node::Symbol(name) => name.as_str(),
            Node::Callable(callable) => callable.name(),
            other => other.kind(),
        }
    }

    fn add_call(&mut self, function: ItemId, arguments: ItemId) -> Result<(), Fault> {
        self.add(Node::Call(Box::new(Call {
            function,
            arguments,
            state: None,
            has_contents: false,
        })))
    }

    fn add_persistent(&mut self, id: ItemId) -> Result<(), Fault> {
        match self.dialect {
            Dialect::Torch => self.add(Node::Persistent(id)),
            Dialect::Numpy => {
                let reason = "uses a persistent id, so part of the content is outside; if this is \
                              from a PyTorch checkpoint, open the checkpoint itself";
                Err(self.input.opcode_fault(reason))
            }
        }
    }

    fn add_global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let found = resolve(module, name, self.dialect);
        self.add_resolved(found)
    }

    fn add_resolved(&mut self, found: Result<Global, String>) -> Result<(), Fault> {
        match found {
            Ok(Global::Known(callable)) => self.add(Node::Callable(callable)),
            Ok(Global::Opaque(name)) => self.add(Node::Symbol(name)),
            Err(reason) => Err(self.input.fault(reason)),
        }
    }

    /// The two lines of a module and a name.
    fn name_lines(&mut self) -> Result<(String, String), Fault> {
        let module = String::from_utf8(self.input.line()?);
        let name = String::from_utf8(self.input.line()?);
        match (module, name) {
            (Ok(module), Ok(name)) => Ok((module, name)),
            _ => Err(self
                .input
                .opcode_fault("needs a module and a name in UTF-8")),
        }
    }

    fn node(&mut self, node: Node) -> Result<ItemId, Fault> {
        let pushed = self.arena.push(node);
        pushed.map_err(|reason| self.input.fault(reason))
    }

    fn add(&mut self, node: Node) -> Result<(), Fault> {
        let id = self.node(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn add_int(&mut self, value: i64) -> Result<(), Fault> {
        match u8::try_from(value) {
            Ok(byte) => {
                self.stack.push(Arena::byte_int(byte));
                Ok(())
            }
            Err(_) => self.add(Node::Int(value)),
        }
    }

    fn add_long(&mut self, len: u64) -> Result<(), Fault> {
        let bytes = self.input.block(len)?;
        match long_value(&bytes) {
            Ok(value) => self.add_int(value),
            Err(digits) => self.add(Node::BigInt(digits.into())),
        }
    }

    fn add_written_int(&mut self, code: u8) -> Result<(), Fault> {
        let line = self.input.line()?;
        let digits = line.trim_ascii();
        if code == b'I' && (digits == b"00" || digits == b"01") {
            self.stack.push(Arena::truth(digits == b"01"));
            return Ok(());
        }
        let digits = match digits {
            [start @ .., b'L'] if code == b'L' => start,
            _ => digits,
        };
        let value = std::str::from_utf8(digits)
            .unwrap_or_default()
            .parse::<i64>();
        match value {
            Ok(value) => self.add_int(value),
            Err(_) => Err(self
                .input
                .opcode_fault("needs an integer of at most 64 bits")),
        }
    }

    fn add_text(&mut self, len: u64) -> Result<(), Fault> {
        let bytes = self.input.block(len)?;
        if bytes.len() >= LONG_TEXT {
            let at = self.input.start();
            return self.add(Node::LongText(Box::new(LongText { bytes, at })));
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.add(Node::Text(text)),
            Err(error) => {
                let reason = format!("has a text that is not UTF-8: {}", error.utf8_error());
                Err(self.input.opcode_fault(&reason))
            }
        }
    }

    fn add_bytes(&mut self, len: u64) -> Result<(), Fault> {
        let bytes = self.input.block(len)?;
        self.add(Node::Bytes(bytes))
    }

    fn add_tuple(&mut self, len: usize) -> Result<(), Fault> {
        let Some(start) = self.stack.len().checked_sub(len) else {
            return Err(self.underflow());
        };
        if start < self.fence() {
            return Err(self.underflow());
        }
        let members: Vec<ItemId> = self.stack.drain(start..).collect();
        self.add(Node::Tuple(members))
    }

    fn length_1(&mut self) -> Result<u64, Fault> {
        let [byte] = self.input.array::<1>()?;
        Ok(u64::from(byte))
    }

    fn length_4(&mut self) -> Result<u64, Fault> {
        Ok(u64::from(u32::from_le_bytes(self.input.array::<4>()?)))
    }

    fn length_8(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.input.array::<8>()?))
    }

    /// A length that Python stores with a sign.
    fn length_i32(&mut self) -> Result<u64, Fault> {
        let len = i32::from_le_bytes(self.input.array::<4>()?);
        match u64::try_from(len) {
            Ok(len) => Ok(len),
            Err(_) => {
                let reason = format!("declares the negative length {len}");
                Err(self.input.opcode_fault(&reason))
            }
        }
    }

    fn written_index(&mut self) -> Result<u64, Fault> {
        let line = self.input.line()?;
        let text = std::str::from_utf8(line.trim_ascii()).unwrap_or_default();
        match text.parse::<u64>() {
            Ok(index) => Ok(index),
            Err(_) => Err(self.input.opcode_fault("needs the number of a memo")),
        }
    }

    fn remember(&mut self, index: u64) -> Result<(), Fault> {
        let id = self.top()?;
        self.memo.put(index, id);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<(), Fault> {
        let Some(id) = self.memo.get(index) else {
            let reason = format!("needs memo {index}, which was not stored before");
            return Err(self.input.opcode_fault(&reason));
        };
        let restored = self.arena.restore(id);
        restored.map_err(|reason| self.input.opcode_fault(&reason))?;
        self.stack.push(id);
        Ok(())
    }

    /// Where the values above the last MARK begin, below which nothing may be taken.
    fn fence(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn underflow(&self) -> Fault {
        let reason = "needs more values than the stack has";
        self.input.opcode_fault(reason)
    }

    fn pop(&mut self) -> Result<ItemId, Fault> {
        if self.stack.len() > self.fence()
            && let Some(id) = self.stack.pop()
        {
            return Ok(id);
        }
        Err(self.underflow())
    }

    fn top(&self) -> Result<ItemId, Fault> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.fence() => Ok(id),
            _ => Err(self.underflow()),
        }
    }

    /// The values above the last MARK, which is taken back.
    fn above_mark(&mut self) -> Result<Vec<ItemId>, Fault> {
        match self.marks.pop() {
            Some(start) => Ok(self.stack.drain(start..).collect()),
            None => Err(self.input.opcode_fault("needs a mark, and none is open")),
        }
    }

    /// An error about the value at a place of the stack, with its key if it is for a dict.
    fn item_fault(&self, place: usize, reason: &str) -> Fault {
        match self.key_before(place) {
            Some(key) => {
                let key: String = key.chars().take(MAX_SHOWN).collect();
                self.input.fault(format!("item `{key}`: {reason}"))
            }
            None => self.input.fault(reason),
        }
    }

    /// The key under a place of the stack.
    fn key_before(&self, place: usize) -> Option<&str> {
        let at = place.checked_sub(1)?;
        let key = self.arena.text(*self.stack.get(at)?)?;
        // Keys and values follow a MARK in turn, or one key follows its dict.
        let dict = match self.marks.last() {
            Some(&mark) if mark <= at && (at - mark).is_multiple_of(2) => mark.checked_sub(1)?,
            Some(&mark) if mark <= at => return None,
            _ => at.checked_sub(1)?,
        };
        match self.arena.node(*self.stack.get(dict)?) {
            Node::Dict(_) => Some(key),
            _ => None,
        }
    }
}

/// Values by number. Numbers are dense as Python writes them, but a file may use any.
#[derive(Default)]
struct Memo {
    dense: Vec<Option<ItemId>>,
    sparse: HashMap<u64, ItemId>,
    /// Numbers in use.
    count: u64,
}

impl Memo {
    fn put(&mut self, index: u64, id: ItemId) {
        // Bounded by what is stored, so that one large number takes no memory.
        let bound = self.count.saturating_mul(2).saturating_add(1024);
        let place = usize::try_from(index).ok();
        match place.filter(|&place| index < bound || place < self.dense.len()) {
            Some(place) => {
                if place >= self.dense.len() {
                    self.dense.resize(place + 1, None);
                }
                let is_new = self.dense[place].is_none() && !self.sparse.contains_key(&index);
                self.dense[place] = Some(id);
                self.count += u64::from(is_new);
            }
            None => {
                let is_new = self.sparse.insert(index, id).is_none();
                self.count += u64::from(is_new);
            }
        }
    }

    fn get(&self, index: u64) -> Option<ItemId> {
        let place = usize::try_from(index).ok();
        let dense = place.and_then(|place| self.dense.get(place).copied().flatten());
        dense.or_else(|| self.sparse.get(&index).copied())
    }
}

/// A two's complement integer, little-endian: its value if it has 64 bits, else as few bytes as
/// possible.
fn long_value(bytes: &[u8]) -> Result<i64, &[u8]> {
    let mut digits = bytes;
    while let [rest @ .., next, last] = digits {
        let is_redundant = (*last == 0 && next & 0x80 == 0) || (*last == 0xff && next & 0x80 != 0);
        if !is_redundant {
            break;
        }
        digits = &digits[..=rest.len()];
    }
    if digits.len() > 8 {
        return Err(digits);
    }
    let is_negative = digits.last().is_some_and(|last| last & 0x80 != 0);
    let mut word = if is_negative { [0xff; 8] } else { [0; 8] };
    word[..digits.len()].copy_from_slice(digits);
    Ok(i64::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_integers_are_as_short_as_possible() {
        let cases: [(&[u8], i64); 7] = [
            (&[], 0),
            (&[0], 0),
            (&[255], -1),
            (&[0, 255], -256),
            (&[255, 0], 255),
            (&[0, 0, 0, 0, 0, 0, 0, 128, 255], i64::MIN),
            (&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1),
        ];
        for (bytes, value) in cases {
            assert_eq!(long_value(bytes), Ok(value), "{bytes:?}");
        }
        let big = [0, 0, 0, 0, 0, 0, 0, 128, 0, 0];
        assert_eq!(long_value(&big), Err(&big[..9]));
    }

    #[test]
    fn a_memo_takes_any_number_without_memory_for_it() {
        let mut memo = Memo::default();
        memo.put(u64::from(u32::MAX), ItemId(7));
        memo.put(0, ItemId(8));
        memo.put(5000, ItemId(9));
        memo.put(0, ItemId(10));
        assert_eq!(memo.get(u64::from(u32::MAX)), Some(ItemId(7)));
        assert_eq!(memo.get(0), Some(ItemId(10)));
        assert_eq!(memo.get(5000), Some(ItemId(9)));
        assert_eq!(memo.get(1), None);
        assert_eq!(memo.count, 3);
        assert!(memo.dense.len() < 10);
    }
}
