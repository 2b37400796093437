//! Who waits for whom, and who waits for ever.
//!
//! A node that has several edges goes on as soon as one of those it waits for helps it: it is stuck only when
//! all of them are. So the stuck ones are what is left when everything that can go on, and everything that one
//! of these could help, has been taken away (the literature's OR model, in which a deadlock is a knot).

use alloc::vec::Vec;

/// Something that waits: a thread or a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A thread, by its number in its process's own namespace.
    Thread(u32),
    /// A goroutine, by its number.
    Goroutine(u64),
}

/// `from` waits for `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Who waits.
    pub from: Node,
    /// Who could end that.
    pub to: Node,
    /// Whether that is concluded from what a goroutine refers to, not written in a lock.
    pub inferred: bool,
}

/// Nodes that wait for each other in a circle, in the order of their waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The first waits for the second, the last for the first.
    pub nodes: Vec<Node>,
    /// Whether one of the edges is inferred.
    pub inferred: bool,
}

/// Finds all circles of nodes that wait for ever. A node that waits and is not the start of an edge is taken
/// for one that can go on. Time grows with nodes times edges: both are bounded by the caller.
#[must_use]
pub fn cycles(edges: &[Edge]) -> Vec<Cycle> {
    let stuck = stuck(edges);
    let mut cycles: Vec<Cycle> = Vec::new();
    for start in &stuck {
        let told = |node: &Node| cycles.iter().any(|cycle| cycle.nodes.contains(node));
        // Circles that share a node are one deadlock.
        let cycle = shortest(*start, edges, &stuck);
        if let Some(cycle) = cycle.filter(|cycle| !cycle.nodes.iter().any(told)) {
            cycles.push(cycle);
        }
    }
    cycles
}

/// The nodes that can never go on, in order.
fn stuck(edges: &[Edge]) -> Vec<Node> {
    let mut stuck: Vec<Node> = edges.iter().map(|edge| edge.from).collect();
    stuck.sort_unstable();
    stuck.dedup();
    loop {
        let before = stuck.len();
        let left = stuck.clone();
        stuck.retain(|node| {
            edges.iter().filter(|edge| edge.from == *node).all(|edge| left.binary_search(&edge.to).is_ok())
        });
        if stuck.len() == before {
            return stuck;
        }
    }
}

/// The shortest way from a node back to itself.
fn shortest(start: Node, edges: &[Edge], stuck: &[Node]) -> Option<Cycle> {
    // Each node once, with the edge by which it was reached.
    let mut reached: Vec<(Node, Edge)> = Vec::new();
    let mut next = 0;
    let mut from = start;
    loop {
        for edge in edges.iter().filter(|edge| edge.from == from) {
            if edge.to == start {
                return Some(way_back(start, *edge, &reached));
            }
            let new = stuck.binary_search(&edge.to).is_ok() && !reached.iter().any(|(n, _)| *n == edge.to);
            if new {
                reached.push((edge.to, *edge));
            }
        }
        (from, _) = *reached.get(next)?;
        next += 1;
    }
}

fn way_back(start: Node, last: Edge, reached: &[(Node, Edge)]) -> Cycle {
    let (mut nodes, mut inferred, mut at) = (Vec::new(), last.inferred, last.from);
    while at != start {
        nodes.push(at);
        let Some((_, edge)) = reached.iter().find(|(node, _)| *node == at) else { break };
        inferred |= edge.inferred;
        at = edge.from;
    }
    nodes.push(start);
    nodes.reverse();
    Cycle { nodes, inferred }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn edges(pairs: &[(u32, u32)]) -> Vec<Edge> {
        let edge = |(from, to): &(u32, u32)| Edge {
            from: Node::Thread(*from),
            to: Node::Thread(*to),
            inferred: false,
        };
        pairs.iter().map(edge).collect()
    }

    fn found(pairs: &[(u32, u32)]) -> Vec<Vec<u32>> {
        let tid = |node: &Node| match node {
            Node::Thread(tid) => *tid,
            Node::Goroutine(_) => 0,
        };
        cycles(&edges(pairs)).iter().map(|cycle| cycle.nodes.iter().map(tid).collect()).collect()
    }

    #[test]
    fn circles_of_any_length() {
        assert_eq!(found(&[(1, 1)]), [vec![1]]);
        assert_eq!(found(&[(1, 2), (2, 1)]), [vec![1, 2]]);
        assert_eq!(found(&[(1, 2), (2, 3), (3, 1)]), [vec![1, 2, 3]]);
        let long: Vec<(u32, u32)> = (0..200).map(|i| (i, (i + 1) % 200)).collect();
        assert_eq!(found(&long), [(0..200).collect::<Vec<u32>>()]);
        // Two of them, and others who wait for their members.
        assert_eq!(found(&[(1, 2), (2, 1), (3, 4), (4, 3), (5, 1), (6, 5)]), [vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn who_can_be_helped_is_not_stuck() {
        assert!(found(&[(1, 2), (2, 3)]).is_empty());
        // 2 waits for 1 or for 3, and 3 runs.
        assert!(found(&[(1, 2), (2, 1), (2, 3)]).is_empty());
        // 3 is stuck as well.
        assert_eq!(found(&[(1, 2), (2, 1), (2, 3), (3, 1)]).len(), 1);
    }

    #[test]
    fn what_is_inferred_is_marked() {
        let mut edges = edges(&[(1, 2), (2, 1)]);
        edges[1].inferred = true;
        assert!(cycles(&edges)[0].inferred);
    }
}
