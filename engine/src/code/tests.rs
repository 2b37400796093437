//! Instructions as Go compiles them, and any bytes.

use alloc::vec::Vec;

use super::{amd64, references};
use crate::layout::Arch;
use crate::memory::{Error, Va};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| core::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Address, words, constant of every reference.
fn found(arch: Arch, entry: u64, hex: &str) -> Vec<(u64, u8, Option<u64>)> {
    let mut all = Vec::new();
    references(arch, Va(entry), &bytes(hex), &mut |r| all.push((r.at.0, r.words, r.stored))).unwrap();
    all
}

#[test]
fn lengths_of_what_go_emits() {
    for one in [
        "49 3b 66 10",                   // cmp rsp, [r14+16]
        "0f 86 93 04 00 00",             // jbe
        "76 18",                         // jbe, near
        "55",                            // push rbp
        "48 81 ec 80 00 00 00",          // sub rsp, 128
        "48 8d 05 9c e8 05 00",          // lea rax, [rip+…]
        "c7 05 11 fe 08 00 10 27 00 00", // mov dword [rip+…], 10000
        "48 c7 44 24 08 00 00 00 00",    // mov qword [rsp+8], 0
        "66 c7 00 01 02",                // mov word [rax], …
        "48 b8 01 02 03 04 05 06 07 08", // mov rax, …
        "b8 10 27 00 00",                // mov eax, 10000
        "f6 05 01 02 03 04 05",          // test byte [rip+…], 5
        "f7 d8",                         // neg eax
        "48 f7 c1 01 00 00 00",          // test rcx, 1
        "f0 48 0f b1 0d 01 02 03 04",    // lock cmpxchg [rip+…], rcx
        "64 4c 8b 34 25 f8 ff ff ff",    // mov r14, fs:[-8]
        "45 0f 57 ff",                   // xorps xmm15, xmm15
        "44 0f 11 7c 24 30",             // movups [rsp+48], xmm15
        "66 0f 1f 84 00 00 00 00 00",    // nop
        "66 48 0f 38 f6 c8",             // adcx
        "66 0f 3a 22 c0 01",             // pinsrd
        "c5 f8 77",                      // vzeroupper
        "c5 fe 6f 04 06",                // vmovdqu
        "c4 e2 7d 78 c0",                // vpbroadcastb
        "c4 e3 7d 39 c1 01",             // vextracti128
        "62 f1 fe 48 6f 06",             // vmovdqu64
        "0f 0b",                         // ud2
        "e8 7b aa ff ff",                // call
        "ff 24 c5 01 02 03 04",          // jmp [rax*8+…]
        "cc",                            // int3
    ] {
        let code = bytes(one);
        assert_eq!(amd64::decode(&code).map(|i| i.len), Some(code.len()), "{one}");
        // What follows does not matter; what is missing does.
        assert_eq!(
            amd64::decode(&[&code, &[0xff; 16][..]].concat()).map(|i| i.len),
            Some(code.len()),
            "{one}"
        );
        for len in 0..code.len() {
            assert_eq!(amd64::decode(&code[..len]), None, "{one}, {len} bytes");
        }
    }
}

#[test]
fn operands_relative_to_the_next_instruction() {
    // mov rax, [rip+0x10]; mov dword [rip+0x10], 10000; test byte [rip+0x10], 5; mov rax, [rsp+8]
    let code = "488b0510000000 c7051000000010270000 f6051000000005 488b442408";
    let expected = [(0x1017, 1, None), (0x1021, 1, Some(10_000)), (0x1028, 1, None)];
    assert_eq!(found(Arch::Amd64, 0x1000, code), expected);
}

#[test]
fn an_unknown_instruction_is_named_by_its_address() {
    let code = bytes("90 90 06");
    let failed = references(Arch::Amd64, Va(0x1000), &code, &mut |_| {});
    assert_eq!(failed, Err(Error::Malformed { what: "x86-64 instruction", at: 0x1002 }));
    assert!(references(Arch::Arm64, Va(0x1000), &code, &mut |_| {}).is_err());
}

#[test]
fn pages_and_offsets_in_them() {
    // adrp x27, +1 page; ldr x2, [x27, #1664]; adrp x27, +2 pages; add x27, x27, #8; ldp x0, x1, [x27]
    let code = "1b0000b0 624343f9 1b0000d0 7b230091 600340a9";
    let expected = [(0x2680, 1, None), (0x3008, 1, None), (0x3008, 2, None)];
    assert_eq!(found(Arch::Arm64, 0x1000, code), expected);
    // mov w1, #10000; adrp x27, +1 page; str w1, [x27, #56]
    let stores = "01e28452 1b0000b0 613b00b9";
    assert_eq!(found(Arch::Arm64, 0x1000, stores), [(0x2038, 1, Some(10_000))]);
}

#[test]
fn what_a_register_held_is_forgotten_when_it_is_written() {
    // adrp x0, +1 page; then: nothing, a call, a load into it, a move into it; ldr x1, [x0, #8]
    for (between, kept) in [("", 1), ("00000094", 0), ("400040f9", 0), ("e00302aa", 0), ("410000b4", 1)] {
        let code = alloc::format!("000000b0 {between} 010440f9");
        assert_eq!(found(Arch::Arm64, 0x1000, &code).len(), kept, "{between}");
    }
}

#[test]
fn any_bytes_are_taken() {
    let mut state = 1u64;
    for _ in 0..20_000 {
        let code: [u8; 64] = core::array::from_fn(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        });
        for entry in [0, 0x40_0000, u64::MAX - 31] {
            let _ = references(Arch::Amd64, Va(entry), &code, &mut |_| {});
            let _ = references(Arch::Arm64, Va(entry & !3), &code, &mut |_| {});
        }
        assert!(amd64::decode(&code).is_none_or(|i| (1..=15).contains(&i.len)));
    }
}
