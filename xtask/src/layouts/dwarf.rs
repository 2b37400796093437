//! Reads struct types out of a Go program's DWARF.

use anyhow::{Context, Result, bail};
use gimli::{AttributeValue, DebuggingInformationEntry, DwarfSections, EndianRcSlice, LittleEndian, Reader};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

type Bytes = EndianRcSlice<LittleEndian>;

/// A type as far as a layout needs it.
pub(crate) struct Type {
    /// Size in bytes, where the type says it.
    pub(crate) size: Option<u64>,
    /// Members in order; none for what is no struct.
    pub(crate) members: Vec<Member>,
    /// What a typedef stands for.
    target: Option<usize>,
    is_struct: bool,
}

/// A member of a struct.
pub(crate) struct Member {
    /// Go's name; an embedded struct has its type's.
    pub(crate) name: String,
    /// Offset in its struct, in bytes.
    pub(crate) offset: u64,
    ty: usize,
}

/// Every type of a program, by its place in `.debug_info`.
pub(crate) struct Types {
    types: BTreeMap<usize, Type>,
    structs: BTreeMap<String, usize>,
}

/// Where a dotted path leads.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Offset from the start of the outermost struct, in bytes.
    pub(crate) offset: u64,
    /// Width of what is there, in bytes.
    pub(crate) width: u64,
}

impl Types {
    /// Reads all types of the program at `path`, whose DWARF must not be compressed.
    pub(crate) fn read(path: &Path) -> Result<Types> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let file = object::File::parse(bytes.as_slice()).context("parse the ELF file")?;
        let load = |id: gimli::SectionId| -> Result<Bytes> {
            let data = match file.section_by_name(id.name()) {
                Some(section) => section.uncompressed_data().context(id.name())?.into_owned(),
                None => Vec::new(),
            };
            Ok(Bytes::new(Rc::from(data), LittleEndian))
        };
        let dwarf = DwarfSections::load(load)?.borrow(Clone::clone);
        let mut types = Types { types: BTreeMap::new(), structs: BTreeMap::new() };
        let mut units = dwarf.units();
        while let Some(header) = units.next()? {
            let unit = dwarf.unit(header)?;
            types.read_unit(&dwarf, &unit)?;
        }
        if types.structs.is_empty() {
            bail!("{} holds no DWARF types", path.display());
        }
        Ok(types)
    }

    fn read_unit(&mut self, dwarf: &gimli::Dwarf<Bytes>, unit: &gimli::Unit<Bytes>) -> Result<()> {
        let mut entries = unit.entries();
        let mut open: Option<usize> = None;
        while let Some((_, entry)) = entries.next_dfs()? {
            let Some(at) = entry.offset().to_debug_info_offset(&unit.header).map(|o| o.0) else { continue };
            match entry.tag() {
                gimli::DW_TAG_member => {
                    let member = read_member(dwarf, unit, entry)?;
                    if let Some(owner) = open.and_then(|o| self.types.get_mut(&o)) {
                        owner.members.push(member);
                    }
                }
                tag => {
                    let is_struct = tag == gimli::DW_TAG_structure_type;
                    open = is_struct.then_some(at);
                    let size = entry.attr_value(gimli::DW_AT_byte_size)?.and_then(|v| v.udata_value());
                    let size = size.or((tag == gimli::DW_TAG_pointer_type).then_some(8));
                    let target = if tag == gimli::DW_TAG_typedef { type_of(unit, entry).ok() } else { None };
                    if is_struct && let Some(name) = name_of(dwarf, unit, entry)? {
                        self.structs.insert(name, at);
                    }
                    self.types.insert(at, Type { size, members: Vec::new(), target, is_struct });
                }
            }
        }
        Ok(())
    }

    /// The struct called `name` (`runtime.g`).
    pub(crate) fn find(&self, name: &str) -> Option<&Type> {
        self.structs.get(name).and_then(|at| self.types.get(at))
    }

    /// Follows a dotted path (`stack.lo`) from a struct; `None` where a part of it does not exist.
    pub(crate) fn place(&self, from: &Type, path: &str) -> Result<Option<Place>> {
        let mut here = from;
        let mut offset = 0;
        for part in path.split('.') {
            let Some(member) = here.members.iter().find(|m| m.name == part) else { return Ok(None) };
            offset += member.offset;
            here = self.resolve(member.ty).with_context(|| format!("type of {path}"))?;
        }
        let width = here.size.with_context(|| format!("{path} has a type without a size"))?;
        Ok(Some(Place { offset, width }))
    }

    fn resolve(&self, at: usize) -> Result<&Type> {
        let mut here = self.types.get(&at).context("dangling type reference")?;
        // A typedef of a typedef is as deep as Go goes.
        for _ in 0..8 {
            match here.target {
                Some(target) if !here.is_struct => {
                    here = self.types.get(&target).context("dangling typedef")?;
                }
                _ => return Ok(here),
            }
        }
        bail!("typedefs without end")
    }
}

type Entry<'a> = DebuggingInformationEntry<'a, 'a, Bytes>;

fn read_member(dwarf: &gimli::Dwarf<Bytes>, unit: &gimli::Unit<Bytes>, entry: &Entry) -> Result<Member> {
    let name = name_of(dwarf, unit, entry)?.unwrap_or_default();
    let offset = entry.attr_value(gimli::DW_AT_data_member_location)?.and_then(|v| v.udata_value());
    let offset = offset.with_context(|| format!("member {name} without an offset"))?;
    Ok(Member { name, offset, ty: type_of(unit, entry)? })
}

fn name_of(dwarf: &gimli::Dwarf<Bytes>, unit: &gimli::Unit<Bytes>, entry: &Entry) -> Result<Option<String>> {
    let Some(value) = entry.attr_value(gimli::DW_AT_name)? else { return Ok(None) };
    Ok(Some(dwarf.attr_string(unit, value)?.to_string_lossy()?.into_owned()))
}

fn type_of(unit: &gimli::Unit<Bytes>, entry: &Entry) -> Result<usize> {
    match entry.attr_value(gimli::DW_AT_type)? {
        Some(AttributeValue::DebugInfoRef(at)) => Ok(at.0),
        Some(AttributeValue::UnitRef(at)) => {
            Ok(at.to_debug_info_offset(&unit.header).context("reference outside its unit")?.0)
        }
        _ => bail!("entry without a type"),
    }
}
