//! The kernel's numbers with names: types of domains, codes of responses, flags of requests.

use std::fmt;

use iommu_trace_common::owner;
use serde::{Serialize, Serializer};

/// `struct iommu_domain.type`, named as the kernel names its combinations of `__IOMMU_DOMAIN_*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainType(pub u32);

impl DomainType {
    /// All DMA is blocked.
    pub const BLOCKED: DomainType = DomainType(0);
    /// DMA addresses are physical addresses.
    pub const IDENTITY: DomainType = DomainType(4);
    /// Mapped by its owner, as VFIO and iommufd do.
    pub const UNMANAGED: DomainType = DomainType(1);
    /// Mapped by the DMA API.
    pub const DMA: DomainType = DomainType(3);
    /// A process address space.
    pub const SVA: DomainType = DomainType(16);
    /// User-managed page table nested on another domain.
    pub const NESTED: DomainType = DomainType(64);

    /// Every combination that has a name.
    pub const NAMED: [DomainType; 8] = [
        DomainType::BLOCKED,
        DomainType::UNMANAGED,
        DomainType::DMA,
        DomainType::IDENTITY,
        DomainType(11),
        DomainType::SVA,
        DomainType(32),
        DomainType::NESTED,
    ];

    /// The kernel's name, lower case, or `None` for a combination without a name.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "blocked",
            1 => "unmanaged",
            3 => "dma",
            4 => "identity",
            11 => "dma-fq",
            16 => "sva",
            32 => "platform",
            64 => "nested",
            _ => return None,
        })
    }
}

impl fmt::Display for DomainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("{:#x}", self.0)),
        }
    }
}

impl Serialize for DomainType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the kernel's own data tells of a handle's owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OwnerHint {
    /// Nothing.
    #[default]
    Unknown,
    /// The handle is part of a `struct iommufd_attach_handle`.
    Iommufd,
    /// The handle is part of a `struct iommu_sva`.
    Sva,
}

impl OwnerHint {
    /// From the record's number ([`iommu_trace_common::owner`]).
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            owner::IOMMUFD => OwnerHint::Iommufd,
            owner::SVA => OwnerHint::Sva,
            _ => OwnerHint::Unknown,
        }
    }
}

/// The response to a page request: `enum iommu_page_response_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseCode {
    /// `IOMMU_PAGE_RESP_SUCCESS`: the device may retry.
    Success,
    /// `IOMMU_PAGE_RESP_INVALID`: the device must not retry.
    Invalid,
    /// `IOMMU_PAGE_RESP_FAILURE`: the device should stop sending page requests.
    Failure,
    /// A number the kernel does not define.
    Other(u32),
}

impl ResponseCode {
    /// From the kernel's number.
    #[must_use]
    pub fn from_raw(raw: u32) -> Self {
        match raw {
            0 => ResponseCode::Success,
            1 => ResponseCode::Invalid,
            2 => ResponseCode::Failure,
            other => ResponseCode::Other(other),
        }
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseCode::Success => f.pad("success"),
            ResponseCode::Invalid => f.pad("invalid"),
            ResponseCode::Failure => f.pad("failure"),
            ResponseCode::Other(code) => f.pad(&format!("code-{code}")),
        }
    }
}

impl Serialize for ResponseCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `IOMMU_FAULT_PAGE_REQUEST_PASID_VALID`.
pub const FLAG_PASID_VALID: u32 = 1 << 0;
/// `IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE`: the request ends its group.
pub const FLAG_LAST_PAGE: u32 = 1 << 1;
/// `IOMMU_FAULT_PAGE_REQ`: the only kind of fault that is answered.
pub use iommu_trace_common::FAULT_PAGE_REQ;
