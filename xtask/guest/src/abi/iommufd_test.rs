//! `drivers/iommu/iommufd/iommufd_test.h`: the ioctl of iommufd's own test device.

use super::{commands, iommufd::CMD_BASE, size_u32};

/// `IOMMU_TEST_OP_MOCK_DOMAIN`.
pub const OP_MOCK_DOMAIN: u32 = 2;
/// `IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE`.
pub const OP_MOCK_DOMAIN_REPLACE: u32 = 10;
/// `IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS`.
pub const OP_MOCK_DOMAIN_FLAGS: u32 = 12;
/// `IOMMU_TEST_OP_TRIGGER_IOPF`.
pub const OP_TRIGGER_IOPF: u32 = 15;
/// `IOMMU_TEST_OP_PASID_ATTACH`.
pub const OP_PASID_ATTACH: u32 = 18;
/// `IOMMU_TEST_OP_PASID_REPLACE`.
pub const OP_PASID_REPLACE: u32 = 19;
/// `IOMMU_TEST_OP_PASID_DETACH`.
pub const OP_PASID_DETACH: u32 = 20;

/// `MOCK_FLAGS_DEVICE_NO_DIRTY`.
pub const DEVICE_NO_DIRTY: u32 = 1 << 0;
/// `MOCK_FLAGS_DEVICE_PASID`.
pub const DEVICE_PASID: u32 = 1 << 2;

/// `MOCK_APERTURE_START`: the first IOVA that a mock domain takes.
pub const APERTURE_START: u64 = 1 << 24;
/// `MOCK_APERTURE_LAST`: the last one.
pub const APERTURE_LAST: u64 = (1 << 31) - 1;
/// `MOCK_PASID_WIDTH`: a mock device has 2^20 PASIDs.
pub const PASID_WIDTH: u32 = 20;
/// `IOMMU_TEST_PASID_RESERVED`: the test device fails the first replace on it, on purpose.
pub const PASID_FAILING: u32 = 1024;

/// `IOMMU_HWPT_DATA_SELFTEST`: the data type of the test device's nested page tables.
pub const HWPT_DATA_SELFTEST: u32 = 0xdead;
/// `IOMMU_TEST_IOTLB_DEFAULT`: what the page table's mock IOTLB is filled with.
pub const IOTLB_DEFAULT: u32 = 0x0bad_beef;

/// `struct iommu_test_cmd`. The union is kept as words; the constructors below lay out its members.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct TestCmd {
    size: u32,
    op: u32,
    id: u32,
    reserved: u32,
    /// The union: its largest member is `dirty`, 48 bytes.
    body: [u32; 12],
    last: u32,
}

commands! {
    TestCmd = CMD_BASE + 32, "IOMMU_TEST_CMD", 72 bytes;
}

/// What `mock_domain` and `mock_domain_flags` give back.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "they are ids of three kinds of objects")]
pub struct MockDomainOut {
    /// The test object: what to destroy in order to detach the device.
    pub stdev_id: u32,
    /// The page table that the device was attached to.
    pub hwpt_id: u32,
    /// The device object: the id that faults are delivered with.
    pub device_id: u32,
}

impl TestCmd {
    fn new(op: u32, id: u32, words: &[u32]) -> Self {
        let mut body = [0; 12];
        body[..words.len()].copy_from_slice(words);
        Self { size: size_u32::<Self>(), op, id, reserved: 0, body, last: 0 }
    }

    /// An operation that no kernel has: tells a kernel with the test device from one without.
    pub fn nop() -> Self {
        Self::new(0, 0, &[])
    }

    /// `mock_domain` with flags 0, else `mock_domain_flags`: makes a device and attaches it to `pt_id`.
    pub fn mock_domain(pt_id: u32, flags: u32) -> Self {
        let op = if flags == 0 { OP_MOCK_DOMAIN } else { OP_MOCK_DOMAIN_FLAGS };
        Self::new(op, pt_id, &[0, 0, 0, flags])
    }

    /// The answer to [`Self::mock_domain`].
    pub fn mock_domain_out(&self) -> MockDomainOut {
        let [stdev_id, hwpt_id, device_id, ..] = self.body;
        MockDomainOut { stdev_id, hwpt_id, device_id }
    }

    /// `mock_domain_replace`: moves the device's RID to `pt_id`.
    pub fn replace(stdev_id: u32, pt_id: u32) -> Self {
        Self::new(OP_MOCK_DOMAIN_REPLACE, stdev_id, &[pt_id])
    }

    /// `mock_domain_replace.pt_id`: the page table that it ended up on.
    pub fn replace_out(&self) -> u32 {
        self.body[0]
    }

    /// `pasid_attach` or `pasid_replace`, told apart by `op`.
    pub fn pasid_set(op: u32, stdev_id: u32, pasid: u32, pt_id: u32) -> Self {
        Self::new(op, stdev_id, &[pasid, pt_id])
    }

    /// `pasid_attach.pt_id`: the page table that it ended up on.
    pub fn pasid_set_out(&self) -> u32 {
        self.body[1]
    }

    /// `pasid_detach`.
    pub fn pasid_detach(stdev_id: u32, pasid: u32) -> Self {
        Self::new(OP_PASID_DETACH, stdev_id, &[pasid])
    }

    /// `trigger_iopf`: the device reports one page request, always the last of its group.
    pub fn trigger_iopf(device_id: u32, pasid: u32, grpid: u32, perm: u32, addr: u64) -> Self {
        let (low, high) = (addr as u32, (addr >> 32) as u32);
        let [first, second] = if cfg!(target_endian = "big") { [high, low] } else { [low, high] };
        Self::new(OP_TRIGGER_IOPF, 0, &[device_id, pasid, grpid, perm, first, second])
    }
}

/// The nested page table's data, `struct iommu_hwpt_selftest`, in each form that kernels had.
///
/// 6.12 has `{ iotlb }`; newer ones `{ iotlb, pagetable_type }`, some `{ flags, iotlb }`. All are
/// checked field by field by the kernel, so that the wrong form is refused or harmless: the caller
/// tries one after the other.
pub const NESTED_DATA_FORMS: [&[u32]; 3] = [&[IOTLB_DEFAULT], &[IOTLB_DEFAULT, 0], &[0, IOTLB_DEFAULT]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_iopf_lays_the_address_out_as_one_aligned_u64() {
        let cmd = TestCmd::trigger_iopf(1, 2, 3, 4, 0x1122_3344_5566_7788);
        assert_eq!(&cmd.body[..4], &[1, 2, 3, 4]);
        let low = u64::from(cmd.body[4]);
        let high = u64::from(cmd.body[5]);
        assert_eq!(low | (high << 32), 0x1122_3344_5566_7788);
    }

    #[test]
    fn a_plain_mock_device_uses_the_operation_that_every_kernel_has() {
        assert_eq!(TestCmd::mock_domain(7, 0).op, OP_MOCK_DOMAIN);
        assert_eq!(TestCmd::mock_domain(7, DEVICE_PASID).op, OP_MOCK_DOMAIN_FLAGS);
    }
}
