//! Numbers of netlink attributes, as <linux/netfilter/nf_tables.h> has them: NFTA_* of each object.

/// NFTA_LIST_ELEM
pub const LIST_ELEM: u16 = 1;

/// NFTA_TABLE_*, and the table's name in messages about what is in it.
pub mod table {
    pub const NAME: u16 = 1;
}

/// NFTA_CHAIN_*, and NFTA_HOOK_* of its hook.
pub mod chain {
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
}

/// NFTA_RULE_*
pub mod rule {
    pub const CHAIN: u16 = 2;
    pub const HANDLE: u16 = 3;
    pub const EXPRESSIONS: u16 = 4;
    pub const USERDATA: u16 = 7;
}

/// NFTA_SET_*
pub mod set {
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LEN: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LEN: u16 = 7;
    pub const ID: u16 = 10;
}

/// NFTA_SET_ELEM_LIST_*
pub mod elements {
    pub const SET: u16 = 2;
    pub const LIST: u16 = 3;
}

/// NFTA_SET_ELEM_*
pub mod element {
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
}

/// NFTA_DATA_*, and NFTA_VERDICT_CODE.
pub mod data {
    pub const VALUE: u16 = 1;
    pub const VERDICT: u16 = 2;
    pub const VERDICT_CODE: u16 = 1;
}

/// NFTA_EXPR_*
pub mod expr {
    pub const NAME: u16 = 1;
    pub const DATA: u16 = 2;
}

/// NFTA_META_*
pub mod meta {
    pub const DREG: u16 = 1;
    pub const KEY: u16 = 2;
}

/// NFTA_CT_*
pub mod ct {
    pub const DREG: u16 = 1;
    pub const KEY: u16 = 2;
}

/// NFTA_PAYLOAD_*
pub mod payload {
    pub const DREG: u16 = 1;
    pub const BASE: u16 = 2;
    pub const OFFSET: u16 = 3;
    pub const LEN: u16 = 4;
    pub const SREG: u16 = 5;
    pub const CSUM_TYPE: u16 = 6;
    pub const CSUM_OFFSET: u16 = 7;
    pub const CSUM_FLAGS: u16 = 8;
}

/// NFTA_CMP_*
pub mod cmp {
    pub const SREG: u16 = 1;
    pub const OP: u16 = 2;
    pub const DATA: u16 = 3;
}

/// NFTA_RANGE_*
pub mod range {
    pub const SREG: u16 = 1;
    pub const OP: u16 = 2;
    pub const FROM: u16 = 3;
    pub const TO: u16 = 4;
}

/// NFTA_BITWISE_*
pub mod bitwise {
    pub const SREG: u16 = 1;
    pub const DREG: u16 = 2;
    pub const LEN: u16 = 3;
    pub const MASK: u16 = 4;
    pub const XOR: u16 = 5;
}

/// NFTA_LOOKUP_*
pub mod lookup {
    pub const SET: u16 = 1;
    pub const SREG: u16 = 2;
    pub const DREG: u16 = 3;
    pub const FLAGS: u16 = 5;
}

/// NFTA_IMMEDIATE_*
pub mod immediate {
    pub const DREG: u16 = 1;
    pub const DATA: u16 = 2;
}

/// NFTA_NAT_*
pub mod nat {
    pub const TYPE: u16 = 1;
    pub const FAMILY: u16 = 2;
    pub const REG_ADDR_MIN: u16 = 3;
    pub const REG_PROTO_MIN: u16 = 5;
}

/// NFTA_FIB_*
pub mod fib {
    pub const DREG: u16 = 1;
    pub const RESULT: u16 = 2;
    pub const FLAGS: u16 = 3;
}
