// SPDX-License-Identifier: GPL-2.0
/*
 * Gives a PCI device the capabilities that page requests need, and binds it to a process's address space.
 *
 * No device that QEMU emulates has the PRI or PASID capability. This module puts itself between the kernel and the
 * configuration space of one device, or of several of its functions: two capabilities are added to the end of each chain,
 * and they are removed and found again. All that follows is the kernel's own: the IOMMU's driver enables PASID and PRI, puts the device into
 * its fault queue, and takes its page requests.
 *
 * Parameters:
 *   device     its address, as 0000:01:00.0
 *   functions  how many of its functions, this one and those after it; 1 unless told otherwise
 *   bind       write 1: iommu_sva_bind_device() with the writer's address space; 0: unbind
 *   pasid      the PASID of the bond, 0 for none
 *
 * For test guests only.
 */
#include <linux/device.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>

/* Not a public header: the module is built with the very source of its kernel. */
#include "drivers/iommu/intel/iommu.h"

/* Where the two capabilities are: beyond all that QEMU's devices have. */
#define PRI_AT		0xf00
#define PASID_AT	0xf20
#define SHIM_SIZE	0x40
#define PASID_BITS	20
#define REQUESTS	64
#define MAX_FUNCTIONS	8

static char *device;
module_param(device, charp, 0444);
MODULE_PARM_DESC(device, "address of the PCI device");

static unsigned int functions = 1;
module_param(functions, uint, 0444);
MODULE_PARM_DESC(functions, "how many of its functions, this one and those after it");

/* One function of the device, with the configuration space that is made up for it. */
struct function {
	struct pci_dev *pdev;
	unsigned int devfn;
	int last_capability;
	u8 space[SHIM_SIZE];
};

static struct function shims[MAX_FUNCTIONS];
static struct pci_bus *bus;
static struct pci_ops *real_ops;

static DEFINE_MUTEX(bond_lock);
static struct iommu_sva *bond;

static struct function *shim_of(unsigned int fn)
{
	unsigned int n;

	for (n = 0; n < functions; n++)
		if (shims[n].devfn == fn)
			return &shims[n];
	return NULL;
}

static bool ours(struct function *shim, int where, int size)
{
	return shim && where >= PRI_AT && where + size <= PRI_AT + SHIM_SIZE;
}

static int shim_read(struct pci_bus *on, unsigned int fn, int where, int size, u32 *value)
{
	struct function *shim = shim_of(fn);
	int ret;

	if (ours(shim, where, size)) {
		*value = 0;
		memcpy(value, shim->space + where - PRI_AT, size);
		return PCIBIOS_SUCCESSFUL;
	}
	ret = real_ops->read(on, fn, where, size, value);
	/* The chain goes on where it ended. */
	if (!ret && shim && where == shim->last_capability && size == 4)
		*value |= PRI_AT << 20;
	return ret;
}

static int shim_write(struct pci_bus *on, unsigned int fn, int where, int size, u32 value)
{
	struct function *shim = shim_of(fn);

	if (!ours(shim, where, size))
		return real_ops->write(on, fn, where, size, value);
	/* A reset is over at once. */
	if (where == PRI_AT + PCI_PRI_CTRL)
		value &= ~PCI_PRI_CTRL_RESET;
	memcpy(shim->space + where - PRI_AT, &value, size);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops shim_ops = { .read = shim_read, .write = shim_write };

static void put16(struct function *shim, int at, u16 value)
{
	memcpy(shim->space + at - PRI_AT, &value, sizeof(value));
}

static void put32(struct function *shim, int at, u32 value)
{
	memcpy(shim->space + at - PRI_AT, &value, sizeof(value));
}

static void make_capabilities(struct function *shim)
{
	put32(shim, PRI_AT, PCI_EXT_CAP_ID_PRI | 1 << 16 | PASID_AT << 20);
	/* With PASID, an answer must have the PASID, too, or VT-d's driver leaves PRI off. */
	put16(shim, PRI_AT + PCI_PRI_STATUS, PCI_PRI_STATUS_STOPPED | PCI_PRI_STATUS_PASID);
	put32(shim, PRI_AT + PCI_PRI_MAX_REQ, REQUESTS);
	put32(shim, PASID_AT, PCI_EXT_CAP_ID_PASID | 1 << 16);
	put16(shim, PASID_AT + PCI_PASID_CAP, PASID_BITS << 8);
}

/* The last extended capability that the device really has. */
static int find_last(struct pci_dev *dev)
{
	int at = PCI_CFG_SPACE_SIZE, turns;
	u32 header = 0;

	for (turns = 0; turns < 64; turns++) {
		if (pci_read_config_dword(dev, at, &header) || !header)
			return 0;
		if (PCI_EXT_CAP_NEXT(header) < PCI_CFG_SPACE_SIZE)
			return at;
		at = PCI_EXT_CAP_NEXT(header);
	}
	return 0;
}

/* Before the IOMMU's driver hears of the device: nothing on its way to memory cuts a PASID off. */
static int device_added(struct notifier_block *nb, unsigned long action, void *data)
{
	struct pci_dev *dev = to_pci_dev(data);

	if (action == BUS_NOTIFY_ADD_DEVICE && dev->bus == bus && shim_of(dev->devfn))
		dev->pasid_no_tlp = 1;
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = device_added, .priority = 100 };

/*
 * QEMU leaves "scalable-mode page-walk coherency" out of VT-d's capabilities, so that the driver refuses to walk a process's
 * page tables. Its walks are the host's own reads of memory: as coherent as can be.
 */
static void allow_processes(void)
{
	struct pci_dev *pdev = shims[0].pdev;
	struct device_domain_info *info = pdev ? dev_iommu_priv_get(&pdev->dev) : NULL;

	if (info && info->iommu && ecap_pasid(info->iommu->ecap) && info->pasid_enabled)
		info->iommu->flags |= VTD_FLAG_SVM_CAPABLE;
}

static void find_again(void)
{
	unsigned int n;

	pci_lock_rescan_remove();
	for (n = 0; n < functions; n++) {
		if (!shims[n].pdev)
			continue;
		pci_stop_and_remove_bus_device(shims[n].pdev);
		pci_dev_put(shims[n].pdev);
	}
	pci_rescan_bus(bus);
	for (n = 0; n < functions; n++)
		shims[n].pdev = pci_get_slot(bus, shims[n].devfn);
	pci_unlock_rescan_remove();
}

static void put_devices(void)
{
	unsigned int n;

	for (n = 0; n < functions; n++)
		pci_dev_put(shims[n].pdev);
}

static void unbind(void)
{
	if (bond)
		iommu_sva_unbind_device(bond);
	bond = NULL;
}

static int set_bind(const char *text, const struct kernel_param *kp)
{
	struct iommu_sva *made;
	bool wanted;
	int ret;

	ret = kstrtobool(text, &wanted);
	if (ret)
		return ret;
	mutex_lock(&bond_lock);
	if (!wanted) {
		unbind();
	} else if (bond || !shims[0].pdev) {
		ret = bond ? -EBUSY : -ENODEV;
	} else {
		made = iommu_sva_bind_device(&shims[0].pdev->dev, current->mm);
		if (IS_ERR(made))
			ret = PTR_ERR(made);
		else
			bond = made;
	}
	mutex_unlock(&bond_lock);
	return ret;
}

static int get_pasid(char *buffer, const struct kernel_param *kp)
{
	u32 pasid = 0;

	mutex_lock(&bond_lock);
	if (bond)
		pasid = iommu_sva_get_pasid(bond);
	mutex_unlock(&bond_lock);
	return sysfs_emit(buffer, "%u\n", pasid);
}

static const struct kernel_param_ops bind_ops = { .set = set_bind };
static const struct kernel_param_ops pasid_ops = { .get = get_pasid };
module_param_cb(bind, &bind_ops, NULL, 0200);
module_param_cb(pasid, &pasid_ops, NULL, 0444);

static int find(struct function *shim, unsigned int domain, unsigned int number, unsigned int devfn)
{
	shim->devfn = devfn;
	shim->pdev = pci_get_domain_bus_and_slot(domain, number, devfn);
	if (!shim->pdev)
		return -ENODEV;
	shim->last_capability = find_last(shim->pdev);
	if (!shim->last_capability)
		return -EOPNOTSUPP;
	bus = shim->pdev->bus;
	make_capabilities(shim);
	return 0;
}

static int __init shim_init(void)
{
	unsigned int domain, number, slot, function, n;
	int ret;

	if (!device || sscanf(device, "%x:%x:%x.%x", &domain, &number, &slot, &function) != 4)
		return -EINVAL;
	if (!functions || function + functions > MAX_FUNCTIONS)
		return -EINVAL;
	for (n = 0; n < functions; n++) {
		ret = find(&shims[n], domain, number, PCI_DEVFN(slot, function + n));
		if (ret)
			goto put;
	}
	ret = bus_register_notifier(&pci_bus_type, &notifier);
	if (ret)
		goto put;
	real_ops = pci_bus_set_ops(bus, &shim_ops);
	find_again();
	allow_processes();
	return 0;
put:
	put_devices();
	return ret;
}

static void __exit shim_exit(void)
{
	unbind();
	pci_bus_set_ops(bus, real_ops);
	find_again();
	bus_unregister_notifier(&pci_bus_type, &notifier);
	put_devices();
}

module_init(shim_init);
module_exit(shim_exit);

MODULE_DESCRIPTION("PRI and PASID for a PCI device of a test guest");
MODULE_LICENSE("GPL");
