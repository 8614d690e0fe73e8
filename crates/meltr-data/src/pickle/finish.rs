//! The end of a pickle: the limits of its tree, and bytes that move into their arrays.

use std::collections::HashMap;

use super::Dialect;
use super::arena::{Arena, Node, Pending};
use super::input::Fault;
use super::numpy::{host_array, transposed};
use super::value::ItemId;

/// Values inside each other, at most.
const MAX_DEPTH: usize = 100;

/// Values that a walk over the whole tree meets, at most, whatever the length of the file.
const MAX_VISITS: u64 = 64_000_000;

/// The same for each byte of a file that is longer.
const MAX_VISITS_PER_BYTE: u64 = 4;

/// A height that is not yet known because the walk is still below the node.
const OPEN: u8 = u8::MAX;

/// A node on the path from the root.
struct Frame {
    id: ItemId,
    next: usize,
    height: u8,
    visits: u64,
}

/// Checks the tree below `root`, and makes every node of it final.
///
/// Nodes that the root does not reach are emptied.
pub(super) fn finish(arena: &mut Arena, root: ItemId, dialect: Dialect) -> Result<(), Fault> {
    let heights = checked_heights(arena, root).map_err(unplaced)?;
    let reached = |id: ItemId| heights[id.0 as usize] != 0;
    let ids = (0..arena.count()).filter_map(|index| u32::try_from(index).ok());
    let ids: Vec<ItemId> = ids.map(ItemId).filter(|&id| reached(id)).collect();
    let mut uses: HashMap<ItemId, usize> = HashMap::new();
    let mut pending: Vec<ItemId> = Vec::new();
    for &id in &ids {
        match arena.node(id) {
            Node::Pending(array) => {
                pending.push(id);
                let others = usize::from(reached(array.data));
                *uses.entry(array.data).or_insert(others) += 1;
            }
            // Before any bytes move into an array.
            Node::Encoded(_) => arena.restore(id).map_err(unplaced)?,
            _ => finish_leaf(arena, id, dialect)?,
        }
    }
    for id in pending {
        if let Node::Pending(array) = arena.replace(id, Node::None) {
            let built = build(arena, *array, &mut uses).map_err(unplaced)?;
            *arena.node_mut(id) = built;
        }
    }
    for index in 0..arena.count() {
        if let Ok(number) = u32::try_from(index)
            && !reached(ItemId(number))
        {
            *arena.node_mut(ItemId(number)) = Node::None;
        }
    }
    Ok(())
}

fn unplaced(reason: String) -> Fault {
    Fault::Format { at: None, reason }
}

/// Turns a node into one of those that views know.
fn finish_leaf(arena: &mut Arena, id: ItemId, dialect: Dialect) -> Result<(), Fault> {
    match arena.node(id) {
        Node::ByteString(_) => {
            if let Node::ByteString(bytes) = arena.replace(id, Node::None) {
                *arena.node_mut(id) = match String::from_utf8(bytes) {
                    Ok(text) => Node::Text(text),
                    Err(error) => Node::Bytes(error.into_bytes()),
                };
            }
            Ok(())
        }
        Node::LongText(_) => {
            if let Node::LongText(text) = arena.replace(id, Node::None) {
                let at = Some(text.at);
                let text = String::from_utf8(text.bytes).map_err(|error| Fault::Format {
                    at,
                    reason: format!("a text is not UTF-8: {}", error.utf8_error()),
                })?;
                *arena.node_mut(id) = Node::Text(text);
            }
            Ok(())
        }
        Node::Unbuilt => Err(unplaced("holds an array without content".to_owned())),
        Node::Objects(objects) => {
            let len = arena.members(objects.list).len();
            if objects.shape.iter().product::<usize>() == len {
                Ok(())
            } else {
                let reason = "holds an array of objects whose list changes afterwards";
                Err(unplaced(reason.to_owned()))
            }
        }
        Node::Callable(_) | Node::Dtype(_) if dialect == Dialect::Numpy => {
            let kind = match arena.node(id) {
                Node::Callable(callable) => callable.name(),
                node => node.kind(),
            };
            Err(unplaced(format!(
                "holds `{kind}` itself as a value, which is no data"
            )))
        }
        _ => Ok(()),
    }
}

/// The final array; its bytes move out of their node if nothing else uses them.
fn build(
    arena: &mut Arena,
    array: Pending,
    uses: &mut HashMap<ItemId, usize>,
) -> Result<Node, String> {
    let uses_left = match uses.get_mut(&array.data) {
        Some(count) => {
            *count = count.saturating_sub(1);
            *count
        }
        None => 0,
    };
    let bytes = if uses_left == 0 {
        match arena.replace(array.data, Node::None) {
            Node::Bytes(bytes) | Node::ByteString(bytes) => bytes,
            _ => return Err("holds an array without bytes".to_owned()),
        }
    } else {
        let bytes = match arena.node(array.data) {
            // A byte string of Python 2 may have become a text.
            Node::Text(text) => text.as_bytes(),
            _ => arena.bytes(array.data).unwrap_or_default(),
        };
        let cost = bytes.len();
        let copy = bytes.to_vec();
        arena.charge(cost)?;
        copy
    };
    let (shape, bytes) = match &array.axes {
        Some(axes) => transposed(array.element.size(), &array.shape, axes, &bytes),
        None => (array.shape, bytes),
    };
    let is_big_endian = array.is_big_endian;
    let array = host_array(array.element, is_big_endian, shape, array.order, bytes)?;
    Ok(Node::Array(Box::new(array)))
}

/// The height of every node that the root reaches, 0 of the others; an error if there is a cycle,
/// if the tree is too deep or if a walk over it would take too long.
fn checked_heights(arena: &Arena, root: ItemId) -> Result<Vec<u8>, String> {
    let max_visits = MAX_VISITS.max(arena.pickle_len().saturating_mul(MAX_VISITS_PER_BYTE));
    let mut heights = vec![0_u8; arena.count()];
    let mut visits = vec![0_u64; arena.count()];
    let mut path: Vec<Frame> = Vec::with_capacity(MAX_DEPTH);
    heights[root.0 as usize] = OPEN;
    path.push(Frame::new(root));
    while let Some(depth) = path.len().checked_sub(1) {
        let frame = &mut path[depth];
        let Some(child) = child(arena, frame.id, frame.next) else {
            let height = frame.height.saturating_add(1);
            let total = frame.visits.saturating_add(1);
            if total > max_visits {
                return Err(format!(
                    "names its values so often that a walk over them would meet more than \
                     {max_visits}; it is made to exhaust the reader"
                ));
            }
            let index = frame.id.0 as usize;
            heights[index] = height;
            visits[index] = total;
            path.pop();
            if let Some(parent) = path.last_mut() {
                parent.add(height, total);
            }
            continue;
        };
        let index = child.0 as usize;
        match heights[index] {
            OPEN => return Err("a value contains itself, which is a cycle".to_owned()),
            0 if depth + 2 > MAX_DEPTH => return Err(too_deep()),
            0 => {
                frame.next += 1;
                heights[index] = OPEN;
                path.push(Frame::new(child));
            }
            height if depth + 1 + usize::from(height) > MAX_DEPTH => return Err(too_deep()),
            height => {
                frame.next += 1;
                frame.add(height, visits[index]);
            }
        }
    }
    Ok(heights)
}

fn too_deep() -> String {
    format!("the nesting depth is above {MAX_DEPTH}")
}

impl Frame {
    fn new(id: ItemId) -> Self {
        Self {
            id,
            next: 0,
            height: 0,
            visits: 0,
        }
    }

    fn add(&mut self, height: u8, visits: u64) {
        self.height = self.height.max(height);
        self.visits = self.visits.saturating_add(visits);
    }
}

/// One of the nodes right below a node, in order.
fn child(arena: &Arena, id: ItemId, index: usize) -> Option<ItemId> {
    match arena.node(id) {
        Node::List(ids) | Node::Tuple(ids) | Node::Set(ids) => ids.get(index).copied(),
        Node::Dict(pairs) => {
            let &(key, value) = pairs.get(index / 2)?;
            Some(if index.is_multiple_of(2) { key } else { value })
        }
        Node::Objects(objects) => (index == 0).then_some(objects.list),
        Node::Call(call) => match index {
            0 => Some(call.function),
            1 => Some(call.arguments),
            2 => call.state,
            _ => None,
        },
        Node::Persistent(id) => (index == 0).then_some(*id),
        _ => None,
    }
}
